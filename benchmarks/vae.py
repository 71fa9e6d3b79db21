"""Times the VAE's encoding and decoding, whole and streamed, against diffusers: the same weights.

python benchmarks/vae.py [--base_dim 96] [--frames 9] [--height 64] [--width 64] [--json]

Random weights at the widths of Wan 2.1 or others. Streamed: chunks of four frames (one latent)
behind the first frame, from a cache; diffusers always works that way, so both of our ways have the
same peer. Printed are seconds, ratios and the largest relative difference of the results.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import pathlib
import tempfile

import numpy as np
from side_by_side import (
    OURS,
    PEAK,
    Case,
    Cases,
    add_device,
    compare,
    jax_matmul,
    numpy_of,
    parser,
    show,
    torch_device,
    torch_matmul,
    work,
)


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns a video and latents, channels last."""
    rng = np.random.default_rng(0)
    video = rng.uniform(-1, 1, (1, args.frames, args.height, args.width, 3))
    size = ((args.frames + 3) // 4, args.height // 8, args.width // 8, 16)
    return video.astype(np.float32), rng.standard_normal((1, *size), np.float32)


def ours(args: argparse.Namespace) -> Cases:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from skyreels_jax.models import layout

    vae = layout.load_component(layout.read_component(pathlib.Path(args.folder), "vae"))
    graphdef, params = nnx.split(vae)
    video, latents = (jnp.asarray(x) for x in inputs(args))

    def compiled(name: str):
        return jax.jit(lambda params, *x: getattr(nnx.merge(graphdef, params), name)(*x))

    encode, decode, encode_chunk, decode_chunk = (
        compiled(name) for name in ("encode", "decode", "encode_chunk", "decode_chunk")
    )

    def streamed(call, x, step: int) -> np.ndarray:
        found, cache = call(params, x[:, :1])
        parts = [found]
        for start in range(1, x.shape[1], step):
            found, cache = call(params, x[:, start : start + step], cache)
            parts.append(found)
        parts = [part[0] if isinstance(part, tuple) else part for part in parts]
        return numpy_of(jnp.concatenate(parts, axis=1))

    return {
        "encode": Case(lambda: numpy_of(encode(params, video)[0])),
        "decode": Case(lambda: numpy_of(decode(params, latents))),
        "encode streamed": Case(lambda: streamed(encode_chunk, video, 4)),
        "decode streamed": Case(lambda: streamed(decode_chunk, latents, 1)),
        PEAK: jax_matmul("float32"),
    }


def torch_side(args: argparse.Namespace) -> Cases:
    import torch
    from diffusers import AutoencoderKLWan

    device = torch_device(args.threads)
    vae = AutoencoderKLWan.from_pretrained(args.folder).to(device).eval()
    video, latents = (
        torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(device) for x in inputs(args)
    )

    @torch.no_grad()
    def encode() -> np.ndarray:
        return np.moveaxis(numpy_of(vae.encode(video).latent_dist.mean), 1, -1)

    @torch.no_grad()
    def decode() -> np.ndarray:
        return np.moveaxis(numpy_of(vae.decode(latents).sample), 1, -1)

    return {
        "encode": Case(encode),
        "decode": Case(decode),
        "encode streamed": Case(encode),
        "decode streamed": Case(decode),
        PEAK: torch_matmul("float32", device),
    }


SIDES = {OURS: ours, "torch": torch_side}


def main() -> None:
    made = parser(__doc__)
    add_device(made, dtype=False)
    made.add_argument("--base_dim", type=int, default=96, help="width of the first stage")
    made.add_argument("--frames", type=int, default=9, help="1 + 4k (default 9)")
    made.add_argument("--height", type=int, default=64, help="pixels (default 64)")
    made.add_argument("--width", type=int, default=64, help="pixels (default 64)")
    args = made.parse_args()
    if args.worker:
        work(args.worker, SIDES, args)
        return
    from skyreels_jax.models import layout
    from skyreels_jax.models.vae.config import VAEConfig
    from skyreels_jax.testing.micro import random_params

    config = VAEConfig(base_dim=args.base_dim)
    with tempfile.TemporaryDirectory() as folder:
        layout.save_component(folder, "vae", config, random_params("vae", config))
        result = compare(__file__, SIDES, args, flags=["--folder", folder])
    for name in ("encode", "decode"):
        result[f"{name}_ratio"] = result["cases"][name]["ratio"]
    show(result, args)


if __name__ == "__main__":
    main()
