"""Times the text encoder (UMT5) against transformers' `UMT5EncoderModel`: the same weights.

python benchmarks/text.py [--layers 2] [--d_model 1024] [--d_ff 2560] [--tokens 128] [--json]

Random weights; the released encoder is --layers 24 --d_model 4096 --d_ff 10240 --heads 64.
--topology compiles for a TPU that is not there instead: memory, and seconds at the chip's peak.
Needs the extra "test" (torch).
"""

import argparse
import pathlib
import tempfile

import numpy as np
from machine import PEAK, jax_matmul, numpy_of, torch_device, torch_matmul, torch_wait
from side_by_side import OURS, add_dtype, compare, parse, parser, show
from topology import add_topology, show_compiled
from worker import Case, Cases, work


def config_of(args: argparse.Namespace):
    from skyreels_jax.models.umt5.config import UMT5Config

    return UMT5Config(
        vocab_size=args.vocabulary,
        d_model=args.d_model,
        d_ff=args.d_ff,
        num_layers=args.layers,
        num_heads=args.heads,
    )


def tokens(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns token ids and which of them are real: all but the last quarter."""
    ids = np.random.default_rng(0).integers(2, args.vocabulary, (1, args.tokens))
    return ids, np.arange(args.tokens)[None] < args.tokens - args.tokens // 4


def ours(args: argparse.Namespace) -> Cases:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from skyreels_jax.models import layout
    from skyreels_jax.models.umt5.flops import forward_flops

    component = layout.read_component(pathlib.Path(args.folder), "text_encoder")
    graphdef, params = nnx.split(layout.load_component(component, dtype=args.dtype))
    encode = jax.jit(lambda params, ids, mask: nnx.merge(graphdef, params)(ids, mask))
    ids, mask = tokens(args)
    ids, real = jnp.asarray(ids, jnp.int32), jnp.asarray(mask)
    flops = forward_flops(component.config, args.tokens)

    def run() -> jax.Array:
        return encode(params, ids, real).block_until_ready()

    return {
        "forward": Case(run, flops, array=lambda found: numpy_of(found)[mask]),
        PEAK: jax_matmul(args.dtype),
    }


def torch_side(args: argparse.Namespace) -> Cases:
    import torch
    from transformers import UMT5EncoderModel

    device = torch_device(args.threads)
    dtype = getattr(torch, args.dtype)
    model = UMT5EncoderModel.from_pretrained(args.folder, dtype=dtype).to(device).eval()
    ids, mask = tokens(args)
    ids, real = (torch.from_numpy(x).to(device) for x in (ids, mask.astype(np.int64)))

    @torch.no_grad()
    def run() -> torch.Tensor:
        found = model(ids, real).last_hidden_state
        torch_wait(device)
        return found

    return {
        "forward": Case(run, array=lambda found: numpy_of(found)[mask]),
        PEAK: torch_matmul(args.dtype, device),
    }


SIDES = {OURS: ours, "torch": torch_side}


def main() -> None:
    made = parser(__doc__)
    add_dtype(made)
    made.add_argument("--layers", type=int, default=2)
    made.add_argument("--d_model", type=int, default=1024)
    made.add_argument("--d_ff", type=int, default=2560)
    made.add_argument("--heads", type=int, default=16, help="of 64 channels (default 16)")
    made.add_argument("--tokens", type=int, default=128)
    made.add_argument("--vocabulary", type=int, default=1000)
    add_topology(made)
    args = parse(made)
    if args.worker:
        work(args.worker, SIDES, args)
        return
    config = config_of(args)
    if args.topology:
        show_compiled(args, abstract(args, config))
        return
    from skyreels_jax.models import layout
    from skyreels_jax.testing.micro import random_params

    with tempfile.TemporaryDirectory() as folder:
        params = random_params("text_encoder", config)
        layout.save_component(folder, "text_encoder", config, params)
        result = compare(__file__, SIDES, args, flags=["--folder", folder])
    show(result | {"ratio": result["cases"]["forward"]["ratio"]}, args)


def abstract(args: argparse.Namespace, config) -> dict:
    """Returns the program to compile, its arguments and operations by name."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from skyreels_jax.models.kinds import abstract_model, as_loaded
    from skyreels_jax.models.umt5.flops import forward_flops

    graphdef, params = abstract_model("text_encoder", config)
    params, shape = as_loaded(params, args.dtype), (1, args.tokens)
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.bool)]

    def encode(params, ids, mask):
        return nnx.merge(graphdef, params)(ids, mask)

    return {"forward": (encode, (params, *arrays), forward_flops(config, args.tokens))}


if __name__ == "__main__":
    main()
