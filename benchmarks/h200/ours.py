"""Our side of benchmarks/h200.sh: python ours.py PART [--tiny]. Prints rows for main.py."""

import dataclasses
import functools
import glob
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from errors import relative_errors
from flax import nnx
from operations import operations
from shapes import CAUSAL_FRAMES, FULL, TINY, Shapes, attention_flops, grid, rate
from worker import attempt, milliseconds, tell

from skyreels_jax.kernels.attention import MASKED, Mask, attention
from skyreels_jax.kernels.attention.api import IMPLEMENTATIONS
from skyreels_jax.kernels.attention.cudnn import cudnn_refuses
from skyreels_jax.kernels.attention.pallas_gpu import Tiles, Tuning, pallas_gpu
from skyreels_jax.models.dit import flops
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.kinds import abstract_model, as_loaded
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.training.state import init_state
from skyreels_jax.training.step import make_train_step

BF16 = jnp.bfloat16
ON_GPU = jax.default_backend() == "gpu"
OURS = ("cudnn", "pallas_gpu") if ON_GPU else ("chunked",)
KIND = jax.devices()[0].device_kind
wait = jax.block_until_ready


def randomly(like, *, scale: float = 1.0, seed: int = 0):
    """Returns random numbers, made on the device, for a tree of shapes."""

    def make(key):
        leaves, tree = jax.tree.flatten(like)
        keys = jax.random.split(key, len(leaves))
        drawn = [
            (scale * jax.random.normal(k, x.shape, jnp.float32)).astype(x.dtype)
            for k, x in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, drawn)

    return jax.jit(make)(jax.random.key(seed))


# Correctness ---------------------------------------------------------------------------------


def correctness(shapes: Shapes, tiny: bool) -> None:
    batch, length, keys, heads = (2, 90, 70, 1) if tiny else (2, 1100, 1000, 3)
    counts = jnp.asarray(np.arange(2 * keys).reshape(2, -1) % 4, jnp.float32)
    masks = {
        "full": None,
        "causal": Mask(causal_block=keys // 7),
        "lengths": Mask(kv_length=jnp.asarray([0, keys - 37])),
        "weights": Mask(kv_weight=counts),
        # The keys of the first block hidden: its queries see none.
        "empty": Mask(kv_weight=counts * (np.arange(keys) >= keys // 7), causal_block=keys // 7),
    }
    for width in (64,) if tiny else (128, 64):  # the model's first: time may be short
        shape = [(batch, n, heads, width) for n in (length, keys, keys, length)]
        arrays = randomly([jax.ShapeDtypeStruct(s, BF16) for s in shape], seed=width)
        for impl in OURS:
            for name, mask in masks.items():
                if impl == "cudnn" and cudnn_refuses(*arrays[:3], mask):
                    continue
                what = f"{impl} {name} {width}"
                attempt(what, functools.partial(compare, impl, arrays, mask))


def compare(impl: str, arrays: list, mask: Mask | None, *, bound: float = 1e-2) -> dict:
    """Returns the relative errors of results and gradients; raises where one is too large or not a
    number.
    """
    run = functools.partial(IMPLEMENTATIONS[impl], mask=mask, scale=0.1)

    def everything(function, q, k, v, g):
        (out, lse), back = jax.vjp(lambda *x: function(*x), q, k, v)
        # As in a ring, the sum of the softmax has a gradient as well.
        dlse = None if lse is None else jnp.cos(lse)
        grads = back((g.astype(out.dtype), dlse))
        found = dict(zip(("out", "dq", "dk", "dv"), (out, *grads), strict=True))
        return found if lse is None else {**found, "lse": lse}

    def truth(q, k, v):
        exact = IMPLEMENTATIONS["reference"](
            *(x.astype(jnp.float32) for x in (q, k, v)), mask=mask, scale=0.1
        )
        return exact if impl != "cudnn" else (exact[0], None)

    ours = jax.jit(functools.partial(everything, run))(*arrays)
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(functools.partial(everything, truth))(*arrays)
    return relative_errors(ours, expected, bound=bound, masked=MASKED)


# Attention -----------------------------------------------------------------------------------

SWEEP = {
    "forward": [
        Tiles(consumers=2, columns=128, stages=2),
        Tiles(consumers=2, columns=64, stages=3),
        Tiles(consumers=2, columns=64, stages=4),
        Tiles(consumers=3, columns=64, stages=2),
        Tiles(consumers=3, columns=64, stages=4),
    ],
    "queries": [Tiles(columns=128), Tiles(consumers=3, columns=64)],
    "keys": [Tiles(columns=64, stages=3), Tiles(consumers=1, columns=64)],
}


def attention_alone(shapes: Shapes, tiny: bool) -> None:
    shape = (1, shapes.tokens, shapes.heads, shapes.width)
    arrays = randomly([jax.ShapeDtypeStruct(shape, BF16)] * 4)
    for impl in OURS:
        run = functools.partial(attention, impl=impl)
        attempt(impl, functools.partial(both_ways, run, arrays, shapes))
    block = CAUSAL_FRAMES * shapes.tokens // 25
    causal = functools.partial(attention, impl=OURS[-1], mask=Mask(causal_block=block))
    attempt(f"{OURS[-1]}, causal", functools.partial(both_ways, causal, arrays, shapes, seen=0.6))
    if not ON_GPU:
        return
    for kernel, choices in SWEEP.items():
        for tiles in choices:
            tuning = dataclasses.replace(Tuning(), **{kernel: tiles})
            scale = shapes.width**-0.5
            run = lambda *a, tuning=tuning: pallas_gpu(*a, scale=scale, tuning=tuning)[0]  # noqa
            parts = ("forward",) if kernel == "forward" else ("backward",)
            what = f"{kernel} {tiles.consumers} x 64 by {tiles.columns}, {tiles.stages} stages"
            measure = functools.partial(both_ways, run, arrays, shapes, parts=parts, tuned=True)
            attempt(what, measure)


def both_ways(run, arrays, shapes, *, seen=1.0, parts=("forward", "backward"), tuned=False) -> dict:
    """Returns times of forward (ms) and of forward and backward together, less the forward.

    seen: the share of all pairs that the mask leaves. tuned: a row of the sweep, whose backward is
    with the forward's time in it.
    """
    found, todo = {}, attention_flops(shapes)
    forward = jax.jit(run)
    both = jax.jit(lambda q, k, v, g: jax.vjp(run, q, k, v)[1](g))
    ms = {}
    if "forward" in parts:
        ms["forward"] = milliseconds(lambda: forward(*arrays[:3]), wait, seconds=1.0)
        found |= {} if tuned or seen < 1 else {"ms": ms["forward"]}
        found |= {"forward_ms": ms["forward"]}
        found |= rate(seen * todo["forward"], ms["forward"], KIND, name="forward_")
    if "backward" in parts:
        total = milliseconds(lambda: both(*arrays), wait, seconds=1.0)
        found |= {"both_ms": total}
        if not tuned:
            back = max(total - ms["forward"], 1e-6)
            found |= rate(seen * todo["backward"], back, KIND, name="backward_")
    return found


# The transformer -----------------------------------------------------------------------------


def conditions(shapes: Shapes, config: DiTConfig) -> dict:
    text = jax.ShapeDtypeStruct((1, shapes.text, config.text_dim), BF16)
    return {"context": randomly(text), "fps": jnp.full((1,), 24, jnp.int32)}


def dit(shapes: Shapes, tiny: bool) -> None:
    cases = [(impl, 1) for impl in OURS] + [(OURS[-1], CAUSAL_FRAMES)]
    for impl, frames in cases:
        what = f"{impl}" + (f", causal blocks of {frames} frames" if frames > 1 else "")
        attempt(what, functools.partial(dit_forward, shapes, impl, frames))


def dit_forward(shapes: Shapes, impl: str, frames: int) -> dict:
    config = DiTConfig(**shapes.transformer, num_frame_per_block=frames)
    graphdef, params = abstract_model("transformer", config)
    params, cond = randomly(as_loaded(params, BF16), scale=0.02), conditions(shapes, config)
    latents = randomly(jax.ShapeDtypeStruct((1, *shapes.latents, config.in_channels), BF16))
    times = jnp.linspace(0, 999, shapes.latents[0])[None]

    @jax.jit
    def forward(params, latents):
        model = nnx.merge(graphdef, params)
        return model(latents, times, attention=functools.partial(attention, impl=impl), **cond)

    ms = milliseconds(lambda: forward(params, latents), wait, seconds=6)
    tokens = grid(shapes, config.patch_size)
    todo = flops.forward_flops(config, tokens, text=shapes.text)
    # A causal model is another one: its time is not to be compared with diffusers' full attention.
    return {"ms" if frames == 1 else "causal_ms": ms, **rate(todo, ms, KIND)}


def train(shapes: Shapes, tiny: bool) -> None:
    cases = [(OURS[0], "attention"), (OURS[0], "dots"), (OURS[-1], "attention")]
    for impl, remat in dict.fromkeys(cases):
        what, steps = f"{impl}, remat {remat}", []
        attempt(what, functools.partial(train_step, shapes, impl, remat, steps))
        if steps:  # a row of its own: a profiler that fails or hangs costs no time that is measured
            attempt(f"{what}: what takes longest", functools.partial(largest_costs, *steps))


def train_step(shapes: Shapes, impl: str, remat: str, steps: list) -> dict:
    """Times a step, which is added to `steps`."""
    config = DiTConfig(**shapes.transformer)

    def make():
        attend = functools.partial(attention, impl=impl)
        return SkyReelsV2Transformer3D(config, attention=attend, remat=remat, rngs=nnx.Rngs(0))

    graphdef, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    tx = optax.adamw(1e-5)
    objective = DiffusionForcing(caption_dropout=0.0, timesteps=0)
    step = make_train_step(objective, tx, graphdef, seed=0, compute_dtype=BF16)
    state = init_state(randomly(params, scale=0.02), tx, ema=False)
    latents = jax.ShapeDtypeStruct((1, *shapes.latents, config.in_channels), jnp.float32)
    zero = jnp.zeros((1,), jnp.int32)
    batch = {"latents": randomly(latents), "start": zero, "given": zero}
    batch |= {"cond": conditions(shapes, config)}
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch, rest).compile()
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def run():
        nonlocal state
        state, metrics = compiled(state, batch, rest)
        return metrics

    ms = milliseconds(run, wait, seconds=6)
    metrics = wait(run())
    if not np.isfinite(metrics["loss"]):
        raise ArithmeticError(f"the loss is {metrics['loss']}")
    todo = flops.train_flops(config, grid(shapes, config.patch_size), text=shapes.text)
    steps.append(run)
    return {"ms": ms, **rate(todo, ms, KIND), "GiB": held / 2**30}


def largest_costs(run: Callable[[], Any], count: int = 3) -> dict:
    """Returns what takes most of the device's time in `run()`: share of all, and name."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            wait(run())
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        traced = jax.profiler.ProfileData.from_file(path)
    spent: dict[str, float] = {}
    for plane in traced.planes:
        if not plane.name.startswith("/device:GPU" if ON_GPU else "/host:CPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream" if ON_GPU else "tf_XLA"):
                continue
            for event in line.events:
                spent[event.name] = spent.get(event.name, 0.0) + event.duration_ns
    total = sum(spent.values())
    most = sorted(spent, key=spent.get, reverse=True)[:count]
    return {"largest": [f"{spent[name] / total:.0%} {name[:60]}" for name in most]}


# The VAE -------------------------------------------------------------------------------------


def vae(shapes: Shapes, tiny: bool) -> None:
    for chunk in (1, 4):
        attempt(f"{chunk} latent frames at once", functools.partial(decode, shapes, chunk))


def decode(shapes: Shapes, chunk: int) -> dict:
    config = VAEConfig(**shapes.vae)
    model = nnx.eval_shape(lambda: AutoencoderKLWan(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    low = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, BF16), state)
    params = randomly(low, scale=0.02)
    latents = randomly(jax.ShapeDtypeStruct((1, *shapes.latents, config.z_dim), BF16))

    @functools.partial(jax.jit, donate_argnums=2)
    def part(params, latents, cache):
        return nnx.merge(graphdef, params).decode_chunk(latents, cache)

    def run():
        made, cache = part(params, latents[:, :1], None)
        frames = [made]
        for start in range(1, latents.shape[1], chunk):
            made, cache = part(params, latents[:, start : start + chunk], cache)
            frames.append(made)
        return frames

    count = sum(f.shape[1] for f in jax.eval_shape(run))
    if count != 4 * shapes.latents[0] - 3:
        raise AssertionError(f"{count} frames were decoded")
    ms = milliseconds(run, wait, seconds=4)
    todo = operations(lambda params, x: nnx.merge(graphdef, params).decode(x), params, latents)
    return {"ms": ms, "frames": count, **rate(todo, ms, KIND)}


PARTS = {
    "correctness": correctness,
    "attention": attention_alone,
    "dit": dit,
    "train": train,
    "vae": vae,
}


def main() -> None:
    name, *flags = sys.argv[1:]
    tiny = "--tiny" in flags
    if not tiny and not ON_GPU:
        sys.exit(f"no GPU: jax sees {jax.devices()}; --tiny takes small shapes, on any machine")
    PARTS[name](TINY if tiny else FULL, tiny)
    tell("device", device=KIND, jax=jax.__version__)


if __name__ == "__main__":
    main()
