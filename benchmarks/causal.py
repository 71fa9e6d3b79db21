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
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

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
    """Returns the seconds of both sides and their ratio."""
    makers = sides(args)
    clocks = {"": time.perf_counter, "processor_": time.process_time}
    spent = {f"{side}_{kind}seconds": [] for kind in clocks for side in makers}
    for number in range(args.runs + 1):
        for side, make in makers.items():
            start = {kind: clock() for kind, clock in clocks.items()}
            jax.block_until_ready(make())
            for kind, clock in clocks.items():
                if number:  # the first one compiles
                    spent[f"{side}_{kind}seconds"].append(clock() - start[kind])
    ratios = {}
    for kind in clocks:
        pairs = zip(spent[f"uncached_{kind}seconds"], spent[f"cached_{kind}seconds"], strict=True)
        ratios[f"{kind}ratio"] = statistics.median(a / b for a, b in pairs)
    return spent | ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--window", type=int, default=25, help="latent frames (default 25)")
    parser.add_argument("--block", type=int, default=5, help="latent frames (default 5)")
    parser.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    parser.add_argument("--inference_steps", type=int, default=25)
    parser.add_argument("--runs", type=int, default=5, help="blocks a side (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = compare(args)
    if args.json:
        print(json.dumps(result))
        return
    for side in ("cached", "uncached"):
        values = sorted(result[f"{side}_seconds"])
        low, middle, high = values[0], statistics.median(values), values[-1]
        print(f"{side:10} {low:7.3f} {middle:7.3f} {high:7.3f} s a block (min, median, max)")
    by_clock, by_processors = result["ratio"], result["processor_ratio"]
    print(f"ratio uncached/cached {by_clock:.2f} (processor time {by_processors:.2f})")


if __name__ == "__main__":
    main()
