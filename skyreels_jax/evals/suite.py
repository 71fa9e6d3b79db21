"""The ToyFilm benchmark: films are made from captions of known scenes, and judged against them.

Four axes, as in SkyReels-Bench: instruction adherence (the share of films that show what was asked
for, for each attribute), consistency, visual quality, and motion (flicker, distance from the
nearest law of motion).
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.toy_film.captions import scene_from_structured, sentences
from skyreels_jax.data.toy_film.world import (
    ATTRIBUTES,
    NO_SPEED,
    SPLITS,
    Scene,
    attributes,
    sample_scene,
)
from skyreels_jax.evals.judge import Verdict, judge

Generate = Callable[[Sequence[str], Sequence[int]], Iterable[UInt8[np.ndarray, "T H W 3"]]]
MEASURES = ("consistency", "quality", "presence", "flicker", "track_error")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One film of an evaluation: what was asked for, what came, and what it shows."""

    scene: Scene
    prompt: str
    seed: int
    frames: UInt8[np.ndarray, "T H W 3"]  # none of them (T = 0) where only the verdict was kept
    verdict: Verdict

    def correct(self, attribute: str) -> bool | None:
        """Returns whether the film shows what was asked for; None for the speed of a still one."""
        wanted = getattr(self.scene, attribute)
        return None if wanted == NO_SPEED else getattr(self.verdict, attribute) == wanted


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """The outcome of an evaluation; every number in it is a function of `samples`."""

    samples: tuple[Sample, ...]

    def outcomes(self, attribute: str) -> list[bool]:
        """Returns right or wrong for every film that can be judged on `attribute`."""
        return [ok for s in self.samples if (ok := s.correct(attribute)) is not None]

    @property
    def adherence(self) -> dict[str, float]:
        """Share of films that are right for each attribute, and the `mean` of these shares."""
        shares = {a: float(np.mean(self.outcomes(a) or [np.nan])) for a in ATTRIBUTES}
        return shares | {"mean": float(np.nanmean(list(shares.values())))}

    @property
    def all_right(self) -> float:
        """Share of films that are right in every attribute at once."""
        wrong = [any(s.correct(a) is False for a in ATTRIBUTES) for s in self.samples]
        return 1.0 - float(np.mean(wrong))

    @property
    def measures(self) -> dict[str, float]:
        """Mean of each of the judge's measures over the films that have it.

        A film without a subject has no track error; the mean over no film is NaN.
        """
        values = {m: [getattr(s.verdict, m) for s in self.samples] for m in MEASURES}
        present = {m: [v for v in list_ if v == v] for m, list_ in values.items()}
        return {m: float(np.mean(list_ or [np.nan])) for m, list_ in present.items()}

    def summary(self) -> dict[str, Any]:
        """Returns {"num", "adherence": {...}, "all_right", *MEASURES}, json-ready (NaN is None)."""
        return {
            "num": len(self.samples),
            "adherence": _rounded(self.adherence),
            "all_right": round(self.all_right, 4),
            **_rounded(self.measures),
        }

    def table(self) -> str:
        """Returns the summary as text: adherence with its standard error, then the measures."""
        lines = [f"{'attribute':<15}{'right':>8}{'+-':>7}{'chance':>9}{'films':>7}"]
        for attribute, legal in ATTRIBUTES.items():
            outcomes = self.outcomes(attribute)
            if outcomes:
                share = float(np.mean(outcomes))
                error = (share * (1 - share) / len(outcomes)) ** 0.5
                numbers = f"{share:>8.3f}{error:>7.3f}{1 / len(legal):>9.2f}{len(outcomes):>7}"
                lines.append(f"{attribute:<15}{numbers}")
        lines.append(f"{'mean':<15}{self.adherence['mean']:>8.3f}")
        lines.append(f"{'all at once':<15}{self.all_right:>8.3f}")
        units = {"quality": " dB", "flicker": " levels", "track_error": " px"}
        for measure, value in self.measures.items():
            number = "none" if value != value else f"{value:.3f}"
            lines.append(f"{measure:<15}{number:>8}{units.get(measure, '')}")
        return "\n".join(lines)

    def records(self) -> list[dict[str, Any]]:
        """Returns prompt, seed, what was asked for and the verdict of every film, json-ready."""
        return [
            {
                "prompt": s.prompt,
                "seed": s.seed,
                "wanted": attributes(s.scene),
                "verdict": {k: None if v != v else v for k, v in to_dict(s.verdict).items()},
            }
            for s in self.samples
        ]


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if v != v else round(v, 4) for name, v in values.items()}


def evaluate(
    generate: Generate,
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
    rounds: int = 1,
    keep: int | None = None,
    progress: Callable[[Sample], Any] | None = None,
) -> Report:
    """Makes `rounds` films for every scene from its sentence, judges them, and reports.

    `generate(prompts, seeds)` yields one film a prompt, in order, batched as it likes. Sample n is
    of scene n mod N, with paraphrase `seed + n mod N` and noise seed `seed + n`.
    keep: how many films' frames stay in memory (None: all).
    `progress` is called with every judged sample.
    """
    texts = sentences(scenes, seed=seed)
    scenes, prompts = list(scenes) * rounds, texts * rounds
    seeds = [seed + n for n in range(len(prompts))]
    films = generate(prompts, seeds)
    samples: list[Sample] = []
    for scene, prompt, one, frames in zip(scenes, prompts, seeds, films, strict=True):
        frames = np.asarray(frames)
        verdict = judge(frames)
        if keep is not None and len(samples) >= keep:
            frames = frames[:0].copy()  # a view would hold them all
        samples.append(Sample(scene=scene, prompt=prompt, seed=one, frames=frames, verdict=verdict))
        if progress is not None:
            progress(samples[-1])
    return Report(samples=tuple(samples))


def read_report(
    records: Sequence[dict[str, Any]],
    scenes: Sequence[Scene],
    frames: UInt8[np.ndarray, "M T H W 3"],
) -> Report:
    """Returns the report of films of `scenes`, round after round, whose `records` these are.

    frames: of the first films; of the others the verdict alone is known.
    """
    samples = []
    for number, row in enumerate(records):
        verdict = {name: math.nan if v is None else v for name, v in row["verdict"].items()}
        samples.append(
            Sample(
                scene=scenes[number % len(scenes)],
                prompt=row["prompt"],
                seed=row["seed"],
                frames=frames[number] if number < len(frames) else frames[0][:0],
                verdict=Verdict(**verdict),
            )
        )
    return Report(samples=tuple(samples))


def load_scenes(prompts: str, num: int | None = None, *, seed: int = 0) -> list[Scene]:
    """Returns the scenes of a benchmark: a split of the world (`num` scenes, 128 by default), or
    those of a .jsonl file of structured captions, one a line (the first `num`, all by default).

    Raises `UserError` for an unknown split or file, a negative seed, or the first bad line with its
    number.
    """
    if seed < 0:
        raise UserError(f"seed must be 0 or more, got {seed}")
    if num is not None and num < 1:
        raise UserError(f"the number of films must be 1 or more, got {num}")
    if prompts in SPLITS:
        return [sample_scene(seed + i, prompts) for i in range(128 if num is None else num)]
    path = pathlib.Path(os.path.expanduser(prompts))
    if not path.is_file():
        splits = ", ".join(SPLITS)
        raise UserError(f"no prompts {prompts!r}: give a .jsonl file or one of {splits}")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # json may hold U+2028 and the like
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {prompts}: {error}") from None
    scenes = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            scenes.append(_scene(line, f"{prompts}, line {number}"))
    if not scenes:
        raise UserError(f"{prompts} has no prompts: one structured caption (JSON) a line")
    return scenes[:num]


def _scene(line: str, where: str) -> Scene:
    try:
        return scene_from_structured(json.loads(line))
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
