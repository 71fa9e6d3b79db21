"""Times a block of a causal film: from a KV cache, and by running the whole window in every step.

python benchmarks/causal.py [--window 25] [--block 5] [--inference_steps 25] [--runs 5] [--json]

Both sides make the last `block` latent frames of a window, the frames before them being done, with
the same widths (those of the miniature, random weights), steps, solver and guidance. Ours runs the
block alone and then once more to keep it; the other one, "uncached", runs all frames of the window
under the causal mask, as a model without a cache does. `ratio` is ours / uncached (below 1: the
cache is faster). The share of the peak counts the operations of each side, which are not the same.
For a TPU that is not there, `skyreels-jax plan --step sample` compiles what films need.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator

from machine import PEAK, jax_matmul
from side_by_side import OURS, compare, parse, parser, show
from worker import Case, Cases, work

SHIFT, SCALE, TEXT_TOKENS = 5.0, 4.0, 64


def model_of(args: argparse.Namespace):
    """Returns the model, the size [H, W, C] of its latents, and what it is told of a text."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import skyreels_jax
    from skyreels_jax.models import layout
    from skyreels_jax.models.dit import SkyReelsV2Transformer3D

    tiny = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny" / "transformer"
    config = layout.read_component(tiny, "transformer").config
    config = dataclasses.replace(config, num_frame_per_block=args.block)
    text = {
        "context": jax.random.normal(jax.random.key(1), (1, TEXT_TOKENS, config.text_dim)),
        "context_weight": jnp.ones((1, TEXT_TOKENS)),
    }
    size = (args.height // 8, args.width // 8, config.in_channels)
    return SkyReelsV2Transformer3D(config, rngs=nnx.Rngs(0)), size, text


def flops(config, size: tuple[int, int, int], frames: int, *, before: int = 0) -> int:
    """Returns the operations of a run on `frames` of their own tokens, which also see those of
    `before` frames, with and without a text; what the text takes is read once and does not count.
    """
    from skyreels_jax.models.dit.flops import forward_flops

    grid = tuple(n // p for n, p in zip((frames, *size[:2]), config.patch_size, strict=True))
    area = grid[1] * grid[2]
    seen = 4 * config.num_layers * config.width * (frames * area) * (before * area)
    return 2 * (forward_flops(config, grid, text=0) + seen)


def cached(args: argparse.Namespace) -> Cases:
    import jax

    from skyreels_jax.pipelines.lengths import FilmPlan

    model, size, text = model_of(args)
    film = FilmPlan(
        num_frames=None,
        base_num_frames=4 * (args.window - 1) + 1,
        causal_block_size=args.block,
        carry="cache",
        inference_steps=args.inference_steps,
        shift=SHIFT,
    )
    made = blocks(model, film, size, text)
    for _ in range(args.window // args.block):
        next(made)  # until the cache is full

    def run() -> None:
        jax.block_until_ready(next(made))

    one = flops(model.config, size, args.block, before=args.window - args.block)
    return {
        "block": Case(run, (args.inference_steps + 1) * one),
        PEAK: jax_matmul("float32"),
    }


def blocks(model, film, size: tuple[int, int, int], text: dict) -> Iterator[tuple]:
    """Yields the latents of block after block and the cache after it, which is then destroyed."""
    import jax.numpy as jnp

    from skyreels_jax.core.rng import stream
    from skyreels_jax.models.dit.kv_cache import cache_window
    from skyreels_jax.pipelines.causal import CachedBlocks
    from skyreels_jax.pipelines.generate import finished, initial_noise

    window = cache_window(model.config, rolling=film.rolling)
    make = CachedBlocks(model, window, guidance_scale=SCALE)
    cache = make.start(1, size[:2])
    for block in film.windows():
        noise = initial_noise((0,), (window.block, *size), window=block.index)
        keys = jnp.stack([stream(0, "window", block.index)])
        latents, cache = finished(make(block, noise, (text, text), keys=keys, memory=cache))
        yield latents, cache


def uncached(args: argparse.Namespace) -> Cases:
    import jax

    from skyreels_jax.diffusion.guidance import guided
    from skyreels_jax.diffusion.plan import Plan, time_grid
    from skyreels_jax.diffusion.sample import sample_steps
    from skyreels_jax.diffusion.solvers import UniPC

    model, size, text = model_of(args)
    plan = Plan(
        latent_frames=args.window,
        inference_steps=args.inference_steps,
        shift=SHIFT,
        causal_block_size=args.block,
        prefix=args.window - args.block,
    )
    velocity, grid = guided(model, text, text, SCALE), time_grid(plan)
    noise = jax.random.normal(jax.random.key(2), (1, args.window, *size))

    def run() -> None:
        *_, last = sample_steps(velocity, noise, grid, UniPC())
        jax.block_until_ready(last)

    one = flops(model.config, size, args.window)
    return {"block": Case(run, args.inference_steps * one), PEAK: jax_matmul("float32")}


SIDES = {OURS: cached, "uncached": uncached}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--window", type=int, default=25, help="latent frames (default 25)")
    made.add_argument("--block", type=int, default=5, help="latent frames (default 5)")
    made.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--inference_steps", type=int, default=25)
    args = parse(made)
    if args.worker:
        work(args.worker, SIDES, args)
        return
    result = compare(__file__, SIDES, args)
    show(result | {"ratio": result["cases"]["block"]["ratio"]}, args)


if __name__ == "__main__":
    main()
