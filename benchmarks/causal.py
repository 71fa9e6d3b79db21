"""Times a block of a causal film: from a KV cache, and by running the whole window in every step.

python benchmarks/causal.py [--window 25] [--block 5] [--inference_steps 25] [--runs 5] [--json]

Both sides make the last `block` latent frames of a window, the frames before them being done, with
the same widths (those of the miniature, random weights), steps, solver and guidance. The cached
side runs the block alone and then once more to keep it; the other one runs all frames of the window
under the causal mask, as a model without a cache does. The two take turns, one block each, so that
a machine whose speed drifts is the same for both. Printed are the seconds a block of either side
(minimum, median, maximum) and the median of the ratios of neighbours (above 1: the cache is
faster), by the clock and by the time of all processors, which others on the machine do not blur.
"""

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from side_by_side import parser, show, summary, timed

import skyreels_jax
from skyreels_jax.core.rng import stream
from skyreels_jax.diffusion.guidance import guided
from skyreels_jax.diffusion.plan import Plan, time_grid
from skyreels_jax.diffusion.sample import sample_steps
from skyreels_jax.diffusion.solvers import UniPC
from skyreels_jax.models import layout
from skyreels_jax.models.dit import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.blocks import KV
from skyreels_jax.models.dit.kv_cache import cache_window
from skyreels_jax.pipelines.causal import CachedBlocks
from skyreels_jax.pipelines.generate import Told, initial_noise
from skyreels_jax.pipelines.lengths import FilmPlan

TINY = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny" / "transformer"
SHIFT, SCALE, TEXT_TOKENS = 5.0, 4.0, 64


def sides(args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Returns the functions that make a block each."""
    config = layout.read_component(TINY, "transformer").config
    config = dataclasses.replace(config, num_frame_per_block=args.block)
    model = SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0))
    size = (args.height // 8, args.width // 8, config.in_channels)
    text = {
        "context": jax.random.normal(jax.random.key(1), (1, TEXT_TOKENS, config.text_dim)),
        "context_weight": jnp.ones((1, TEXT_TOKENS)),
    }
    film = FilmPlan(
        num_frames=None,
        base_num_frames=4 * (args.window - 1) + 1,
        causal_block_size=args.block,
        carry="cache",
        inference_steps=args.inference_steps,
        shift=SHIFT,
    )
    cached = blocks(model, film, size, (text, text))
    for _ in range(args.window // args.block):
        next(cached)  # until the cache is full

    plan = Plan(
        latent_frames=args.window,
        inference_steps=args.inference_steps,
        shift=SHIFT,
        causal_block_size=args.block,
        prefix=args.window - args.block,
    )
    velocity, grid = guided(model, text, text, SCALE), time_grid(plan)
    noise = jax.random.normal(jax.random.key(2), (1, args.window, *size))

    def uncached() -> jax.Array:
        *_, last = sample_steps(velocity, noise, grid, UniPC())
        return last

    return {"cached": lambda: next(cached), "uncached": uncached}


def blocks(
    model: SkyReelsV2Transformer3D, film: FilmPlan, size: tuple[int, int, int], told: Told
) -> Iterator[tuple[jax.Array, KV]]:
    """Yields the latents of block after block and the cache after it, which is then destroyed."""
    window = cache_window(model.config, rolling=film.rolling)
    make = CachedBlocks(model, window, guidance_scale=SCALE)
    cache = make.start(1, size[:2])
    for block in film.windows():
        noise = initial_noise((0,), (window.block, *size), window=block.index)
        keys = jnp.stack([stream(0, "window", block.index)])
        latents, cache = make(block, noise, told, keys=keys, memory=cache)
        yield latents, cache


def compare(args: argparse.Namespace) -> dict:
    """Returns the seconds of both sides and the ratio of the one without a cache to the cached."""
    makers = sides(args)
    for make in makers.values():
        jax.block_until_ready(make())  # compiles
    times: dict[str, list] = {side: [] for side in makers}
    for _ in range(args.runs):
        for side, make in makers.items():
            times[side].append(timed(lambda make=make: jax.block_until_ready(make()))[0])
    found = summary(times, "cached")
    pairs = list(zip(times["uncached"], times["cached"], strict=True))
    for index, name in enumerate(("ratio", "processor_ratio")):
        found[name] = statistics.median(a[index] / b[index] for a, b in pairs)
    return {"cases": {"block": found}, "ratio": found["ratio"]}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--window", type=int, default=25, help="latent frames (default 25)")
    made.add_argument("--block", type=int, default=5, help="latent frames (default 5)")
    made.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--inference_steps", type=int, default=25)
    args = made.parse_args()
    show(compare(args), args)


if __name__ == "__main__":
    main()
