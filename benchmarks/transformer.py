"""The transformer that benchmarks take: its sizes as arguments, random weights on disk."""

import argparse
import pathlib

HEAD = 128


def add_sizes(made: argparse.ArgumentParser, *, layers: int) -> None:
    """Adds the sizes; the defaults but that of layers are those of 1.3B."""
    made.add_argument("--width", type=int, default=1536, help=f"a multiple of {HEAD}, or less")
    made.add_argument("--ffn_dim", type=int, default=8960)
    made.add_argument("--text_dim", type=int, default=4096)
    made.add_argument("--layers", type=int, default=layers)


def config_of(args: argparse.Namespace):
    """Returns the config of these sizes."""
    from skyreels_jax.models.dit.config import DiTConfig

    head = min(HEAD, args.width)
    if args.width % head:
        raise SystemExit(f"--width {args.width}: a multiple of {HEAD}, or less")
    return DiTConfig(
        num_attention_heads=args.width // head,
        attention_head_dim=head,
        in_channels=16,
        out_channels=16,
        text_dim=args.text_dim,
        ffn_dim=args.ffn_dim,
        num_layers=args.layers,
    )


def write(folder: str, args: argparse.Namespace) -> int:
    """Writes random weights in diffusers form, float32; returns their bytes."""
    from skyreels_jax.models import layout
    from skyreels_jax.testing.micro import random_params

    config = config_of(args)
    layout.save_component(folder, "transformer", config, random_params("transformer", config))
    return sum(path.stat().st_size for path in pathlib.Path(folder).glob("*.safetensors"))
