"""Times a block of a causal film: from a KV cache, and by running the whole window in every step.

python benchmarks/causal.py [--window 25] [--block 5] [--inference_steps 25] [--runs 5] [--json]

Both sides make the last `block` latent frames of a window, the frames before them being given, with
the same widths (those of the miniature, random weights), steps, solver and guidance, as films are
made. Ours runs the block alone and then once more to keep it; the other one, "uncached", runs all
frames of the window under the causal mask, as films without a cache do: its text is read once as
well. Ours goes on to the blocks after that, with the cache full; compared is the first, of the same
noise. `ratio` is ours / uncached (below 1: the cache is faster). The share of the peak counts the
operations of each side, which are not the same.
For a TPU that is not there, `skyreels-jax plan --step sample` compiles what films need.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from machine import PEAK, jax_matmul, numpy_of
from side_by_side import OURS, compare, parse, parser, show
from worker import Case, Cases, work

SHIFT, SCALE, TEXT_TOKENS = 5.0, 4.0, 64


def model_of(args: argparse.Namespace):
    """Returns the model, the size [H, W, C] of its latents, and what it is told: a text, and one
    that it is steered away from.
    """
    import jax
    import jax.numpy as jnp

    import skyreels_jax
    from skyreels_jax.models import layout
    from skyreels_jax.models.kinds import abstract_model
    from skyreels_jax.nn.whole import put_together
    from skyreels_jax.testing.micro import random_params

    tiny = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny" / "transformer"
    config = layout.read_component(tiny, "transformer").config
    config = dataclasses.replace(config, num_frame_per_block=args.block)
    shape, weight = (1, TEXT_TOKENS, config.text_dim), jnp.ones((1, TEXT_TOKENS))
    told = tuple(
        {"context": jax.random.normal(jax.random.key(seed), shape), "context_weight": weight}
        for seed in (1, 2)
    )
    size = (args.height // 8, args.width // 8, config.in_channels)
    # Not those that training starts from, with which the velocity is zero.
    params = jax.tree.map(jnp.asarray, random_params("transformer", config))
    return put_together(abstract_model("transformer", config)[0], params), size, told


def flops(config, size: tuple[int, int, int], frames: int, *, before: int = 0) -> int:
    """Returns the operations of a run on `frames` of their own tokens, which also see those of
    `before` frames, with and without a text; what the text takes is read once and does not count.
    """
    from skyreels_jax.models.dit.flops import forward_flops

    grid = tuple(n // p for n, p in zip((frames, *size[:2]), config.patch_size, strict=True))
    area = grid[1] * grid[2]
    seen = 4 * config.num_layers * config.width * (frames * area) * (before * area)
    return 2 * (forward_flops(config, grid, text=0) + seen)


def request_of(args: argparse.Namespace):
    """Returns the film that makers are to make, which starts from given frames, all but the last
    block of its first window, and has no end. Its prompts are not read.
    """
    from skyreels_jax.pipelines.lengths import FilmPlan
    from skyreels_jax.pipelines.validate import Request

    given = 4 * (args.window - args.block - 1) + 1
    film = FilmPlan(
        num_frames=None,
        base_num_frames=4 * (args.window - 1) + 1,
        overlap_history=given,
        video_frames=given,
        causal_block_size=args.block,
        carry="cache",
        inference_steps=args.inference_steps,
        shift=SHIFT,
    )
    return Request(
        prompts=("",),
        seeds=(0,),
        negative_prompt="",
        film=film,
        height=args.height,
        width=args.width,
        guidance_scale=SCALE,
        fps=24,
        dtype="float32",
        batch_size=1,
    )


def given_frames(film, size: tuple[int, int, int]):
    """Returns the latents that the film starts from, the same for all makers."""
    import jax

    return jax.random.normal(jax.random.key(3), (1, film.prefix, *size))


def windows(make, film, size: tuple[int, int, int], told: tuple, given) -> Iterator[tuple]:
    """Yields the latents of window after window, the first behind `given`, and the memory of the
    maker, which is then destroyed.
    """
    import jax.numpy as jnp

    from skyreels_jax.core.rng import stream
    from skyreels_jax.diffusion.sample import place
    from skyreels_jax.pipelines.generate import finished, initial_noise

    memory = make.start(1, size[:2])
    for window in film.windows():
        noise = initial_noise((0,), (window.plan.latent_frames, *size), window=window.index)
        x = noise if window.index else place(noise, prefix=given)
        keys = jnp.stack([stream(0, "window", window.index)])
        latents, memory = finished(make(window, x, told, keys=keys, memory=memory))
        yield latents, memory


def cached(args: argparse.Namespace) -> Cases:
    import jax

    from skyreels_jax.pipelines.causal import CachedBlocks

    model, size, told = model_of(args)
    request = request_of(args)
    make, given = CachedBlocks.of(model, request), given_frames(request.film, size)
    made = windows(make, request.film, size, told, given)
    first, _ = next(made)  # until the cache is full

    def run() -> None:
        jax.block_until_ready(next(made))

    def array(_: None) -> np.ndarray:
        return numpy_of(first[:, -args.block :])

    one = flops(model.config, size, args.block, before=args.window - args.block)
    return {
        "block": Case(run, (args.inference_steps + 1) * one, array=array),
        PEAK: jax_matmul("float32"),
    }


def uncached(args: argparse.Namespace) -> Cases:
    import jax

    from skyreels_jax.nn.whole import taken_apart
    from skyreels_jax.pipelines.stream import WholeWindows

    model, size, told = model_of(args)
    request = request_of(args)
    make = WholeWindows(model=taken_apart(model), request=request)
    given = given_frames(request.film, size)

    def run() -> jax.Array:  # the first window, again and again
        latents, _ = next(windows(make, request.film, size, told, given))
        return latents.block_until_ready()

    def array(latents: jax.Array) -> np.ndarray:
        return numpy_of(latents[:, -args.block :])

    one = flops(model.config, size, args.window)
    return {
        "block": Case(run, args.inference_steps * one, array=array),
        PEAK: jax_matmul("float32"),
    }


SIDES = {OURS: cached, "uncached": uncached}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--window", type=int, default=25, help="latent frames (default 25)")
    made.add_argument("--block", type=int, default=5, help="latent frames (default 5)")
    made.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--inference_steps", type=int, default=25)
    args = parse(made)
    if args.block < 2 or args.window % args.block or args.window == args.block:
        sizes = f"--window {args.window} --block {args.block}"
        made.error(f"{sizes}: a window is two blocks or more, a block two frames or more")
    if args.worker:
        work(args.worker, SIDES, args)
        return
    result = compare(__file__, SIDES, args)
    show(result | {"ratio": result["cases"]["block"]["ratio"]}, args)


if __name__ == "__main__":
    main()
