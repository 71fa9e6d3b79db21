"""Times the VAE's encoding and decoding, whole and streamed, against diffusers: the same weights.

python benchmarks/vae.py [--base_dim 96] [--frames 9] [--height 64] [--width 64] [--json]

Random weights at the widths of Wan 2.1 or others. Streamed: chunks of four frames (one latent)
behind the first frame, from a cache; diffusers always works that way, so both of our ways have the
same peer. Printed are seconds, ratios (`encode_ratio` and `decode_ratio` are those of whole clips),
shares of the peak, and the largest relative difference of the results. --topology compiles for a
TPU that is not there instead: memory, and seconds at the chip's peak.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
from machine import PEAK, jax_matmul, numpy_of, torch_device, torch_matmul, torch_wait
from operations import operations
from side_by_side import OURS, compare, parse, parser, show
from topology import add_topology, show_compiled
from worker import Case, Cases, work


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns a video and latents, channels last."""
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (1, args.frames, args.height, args.width, 3))
    size = ((args.frames + 3) // 4, args.height // 8, args.width // 8, 16)
    return video.astype(np.float32), rng.standard_normal((1, *size), np.float32)


def functions(graphdef) -> dict[str, Callable]:
    """Returns the functions of parameters, an array and perhaps a cache by name."""
    from flax import nnx

    def function(name: str) -> Callable:
        return lambda params, *x: getattr(nnx.merge(graphdef, params), name)(*x)

    return {name: function(name) for name in ("encode", "decode", "encode_chunk", "decode_chunk")}


def ours(args: argparse.Namespace) -> Cases:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from skyreels_jax.models import layout

    vae = layout.load_component(layout.read_component(pathlib.Path(args.folder), "vae"))
    graphdef, params = nnx.split(vae)
    video, latents = (jnp.asarray(x) for x in inputs(args))
    made = functions(graphdef)
    encode, decode, encode_chunk, decode_chunk = map(jax.jit, made.values())
    encoding = operations(made["encode"], params, video)
    decoding = operations(made["decode"], params, latents)

    def whole(call, x) -> jax.Array:
        return mean(jax.block_until_ready(call(params, x)))

    def streamed(call, x, step: int) -> jax.Array:
        found, cache = call(params, x[:, :1])
        parts = [mean(found)]
        for start in range(1, x.shape[1], step):
            found, cache = call(params, x[:, start : start + step], cache)
            parts.append(mean(found))
        return jnp.concatenate(parts, axis=1).block_until_ready()

    runs = {
        "encode": (lambda: whole(encode, video), encoding),
        "decode": (lambda: whole(decode, latents), decoding),
        "encode streamed": (lambda: streamed(encode_chunk, video, 4), encoding),
        "decode streamed": (lambda: streamed(decode_chunk, latents, 1), decoding),
    }
    cases = {name: Case(run, flops, array=numpy_of) for name, (run, flops) in runs.items()}
    return cases | {PEAK: jax_matmul("float32")}


def mean(found):
    """Returns the mean of what encoding gives (with its deviation), and videos as they are."""
    return found[0] if isinstance(found, tuple) else found


def torch_side(args: argparse.Namespace) -> Cases:
    import torch
    from diffusers import AutoencoderKLWan

    device = torch_device(args.threads)
    vae = AutoencoderKLWan.from_pretrained(args.folder).to(device).eval()
    video, latents = (
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(device) for x in inputs(args)
    )

    @torch.no_grad()
    def encode() -> torch.Tensor:
        found = vae.encode(video).latent_dist.mean
        torch_wait(device)
        return found

    @torch.no_grad()
    def decode() -> torch.Tensor:
        found = vae.decode(latents).sample
        torch_wait(device)
        return found

    def array(found: torch.Tensor) -> np.ndarray:
        return np.moveaxis(numpy_of(found), 1, -1)

    runs = {"encode": encode, "decode": decode}
    runs |= {f"{name} streamed": run for name, run in runs.items()}
    cases = {name: Case(run, array=array) for name, run in runs.items()}
    return cases | {PEAK: torch_matmul("float32", device)}


SIDES = {OURS: ours, "torch": torch_side}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--base_dim", type=int, default=96, help="width of the first stage")
    made.add_argument("--frames", type=int, default=9, help="1 + 4k (default 9)")
    made.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    add_topology(made)
    args = parse(made)
    if args.worker:
        work(args.worker, SIDES, args)
        return
    from skyreels_jax.models import layout
    from skyreels_jax.models.vae.config import VAEConfig
    from skyreels_jax.testing.micro import random_params

    config = VAEConfig(base_dim=args.base_dim)
    if args.topology:
        show_compiled(args, abstract(args, config))
        return
    with tempfile.TemporaryDirectory() as folder:
        layout.save_component(folder, "vae", config, random_params("vae", config))
        result = compare(__file__, SIDES, args, flags=["--folder", folder])
    for name in ("encode", "decode"):
        result[f"{name}_ratio"] = result["cases"][name]["ratio"]
    show(result, args)


def abstract(args: argparse.Namespace, config) -> dict:
    """Returns the programs to compile, their arguments and operations by name; those of chunks
    with what they carry.
    """
    import jax

    from skyreels_jax.models.kinds import abstract_model

    graphdef, params = abstract_model("vae", config)
    made, found = functions(graphdef), {}
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs(args)]
    for name, x, step in zip(("encode", "decode"), arrays, (4, 1), strict=True):
        found[name] = made[name], (params, x)
        first, chunk = (
            jax.ShapeDtypeStruct((1, frames, *x.shape[2:]), x.dtype) for frames in (1, step)
        )
        _, cache = jax.eval_shape(made[f"{name}_chunk"], params, first)
        found[f"{name} chunk"] = made[f"{name}_chunk"], (params, chunk, cache)
    return {name: (call, given, operations(call, *given)) for name, (call, given) in found.items()}


if __name__ == "__main__":
    main()
