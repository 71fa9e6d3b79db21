"""Prompts: the default negative one, files of them, and names for the films they make."""

import pathlib
import re

from skyreels_jax.core.errors import UserError

# What the Wan and SkyReels-V2 checkpoints are steered away from (the default of their scripts).
WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def read_prompts(path: pathlib.Path) -> list[str]:
    """Returns the prompts in a UTF-8 text file, one a line, blank lines left out."""
    try:
        # Editors may mark UTF-8. Not splitlines: a prompt may hold U+2028 and the like.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read prompts from {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not UTF-8 text, one prompt a line") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{str(path)!r} holds no prompt; write one a line")
    return prompts


def film_names(prompts: list[str], seeds: list[int]) -> list[str]:
    """Returns file names without ending: words of the prompt, the seed, a number if repeated."""
    names: list[str] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:60].strip("-_")
        name = f"{words or 'film'}_seed{seed}"
        repeats = sum(n == name or n.startswith(f"{name}_") for n in names)
        names.append(f"{name}_{repeats + 1}" if repeats else name)
    return names
