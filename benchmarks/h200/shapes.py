"""The sizes that both sides measure, small ones for a machine without a GPU, and operations."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """tokens, heads, width: of attention alone. latents: [T, H, W] of the transformer and the VAE;
    text: tokens of a prompt. transformer, vae: fields of the configs of either side.
    """

    tokens: int
    heads: int
    width: int
    latents: tuple[int, int, int]
    text: int
    transformer: dict
    vae: dict


# SkyReels-V2-DF-1.3B-540P: 97 frames of 544 x 960 are 25 x 34 x 60 = 51,000 tokens.
FULL = Shapes(
    tokens=51_000,
    heads=12,
    width=128,
    latents=(25, 68, 120),
    text=512,
    transformer={
        "num_attention_heads": 12,
        "ffn_dim": 8960,
        "num_layers": 30,
        "inject_sample_info": True,
    },
    vae={},
)
TINY = Shapes(
    tokens=300,
    heads=2,
    width=64,
    latents=(5, 8, 8),
    text=16,
    transformer={
        "num_attention_heads": 2,
        "attention_head_dim": 64,
        "text_dim": 32,
        "freq_dim": 16,
        "ffn_dim": 64,
        "num_layers": 2,
        "inject_sample_info": True,
    },
    vae={"base_dim": 8, "num_res_blocks": 1},
)
CAUSAL_FRAMES = 5  # of a block, where blocks are causal


def attention_flops(shapes: Shapes) -> dict[str, float]:
    """Returns the operations of attention among all tokens; backward is five products to two."""
    forward = 4.0 * shapes.tokens**2 * shapes.heads * shapes.width
    return {"forward": forward, "backward": 2.5 * forward}


def grid(shapes: Shapes, patch_size: Sequence[int]) -> tuple[int, ...]:
    """Returns the transformer's tokens in time, height and width."""
    return tuple(n // p for n, p in zip(shapes.latents, patch_size, strict=True))


def rate(operations: float, ms: float, kind: str, *, name: str = "") -> dict[str, float]:
    """Returns TFLOP/s and, where the peak of the kind of device is known, the share of it.

    name: before the names of both.
    """
    from skyreels_jax.training.peaks import peak

    most = peak(kind)
    share = {} if most is None else {f"{name}peak_fraction": operations / (1e-3 * ms * most)}
    return {f"{name}tflops": operations / ms / 1e9, **share}
