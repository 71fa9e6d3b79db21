"""Times one film through skyreels_jax and through PyTorch diffusers: the same weights and noise.

python benchmarks/film.py [--model tiny] [--runs 5] [--threads 2] [--json]

Each side is a process of its own that loads the model and makes one film to warm up; then the two
take turns, one film each. Printed are the seconds of either side, the medians of the ratios of
neighbours (below 1: ours is faster), and the PSNR between the two films in dB; under 40 dB they
are two films, and the exit status is 1.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import json
import pathlib

import numpy as np
from machine import PEAK, jax_matmul, torch_device, torch_matmul
from operations import operations
from side_by_side import OURS, compare, parse, parser, show
from worker import Case, Cases, work

AGREE = 40  # dB
PROMPT = "A red ring glides slowly to the right in a meadow, close-up."


def add_film(made: argparse.ArgumentParser) -> None:
    """Adds which film is made."""
    made.add_argument("--model", default="tiny", help="tiny, or a diffusers folder of ours")
    made.add_argument("--num_frames", type=int, default=33)
    made.add_argument("--inference_steps", type=int, default=25)


def ours(args: argparse.Namespace) -> Cases:
    import skyreels_jax as sr

    model = sr.load(args.model, dtype="float32")
    options = {"inference_steps": args.inference_steps, "num_frames": args.num_frames}

    def make() -> np.ndarray:
        return model.generate(PROMPT, latents=noise(args), **options).frames

    return {
        "film": Case(make, flops(args), array=np.asarray),
        PEAK: jax_matmul("float32"),
    }


def diffusers(args: argparse.Namespace) -> Cases:
    import torch
    from diffusers import SkyReelsV2Pipeline

    device = torch_device(args.threads)
    folder = model_folder(args.model)
    pipe = SkyReelsV2Pipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    defaults = json.loads((folder / "skyreels_jax.json").read_text())

    def make() -> np.ndarray:
        latents = torch.from_numpy(np.moveaxis(noise(args), -1, 1).copy())
        frames = pipe(
            PROMPT,
            negative_prompt=defaults["negative_prompt"],
            latents=latents.to(device),
            height=defaults["height"],
            width=defaults["width"],
            num_frames=args.num_frames,
            num_inference_steps=args.inference_steps,
            guidance_scale=defaults["guidance_scale"],
            output_type="np",
        ).frames[0]
        return np.round(frames * 255).astype(np.uint8)

    return {"film": Case(make, array=np.asarray), PEAK: torch_matmul("float32", device)}


SIDES = {OURS: ours, "diffusers": diffusers}


def model_folder(model: str) -> pathlib.Path:
    """Returns the folder of "tiny" or of a path."""
    import skyreels_jax

    tiny = pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny"
    return tiny if model == "tiny" else pathlib.Path(model)


def noise(args: argparse.Namespace) -> np.ndarray:
    """Returns the initial noise of both sides, float32 [1, T, H, W, C]."""
    folder = model_folder(args.model)
    defaults = json.loads((folder / "skyreels_jax.json").read_text())
    channels = json.loads((folder / "vae" / "config.json").read_text())["z_dim"]
    shape = ((args.num_frames + 3) // 4, defaults["height"] // 8, defaults["width"] // 8, channels)
    return np.random.default_rng(0).standard_normal((1, *shape), np.float32)


def flops(args: argparse.Namespace) -> float:
    """Returns the operations of a film: of the transformer on the film's own tokens, twice a step,
    and of decoding. What the text takes, which is encoded and read once, does not count.
    """
    import jax
    from flax import nnx

    from skyreels_jax.models import layout
    from skyreels_jax.models.dit.flops import forward_flops
    from skyreels_jax.models.kinds import abstract_model

    folder, latents = model_folder(args.model), noise(args)
    config = layout.read_component(folder / "transformer", "transformer").config
    grid = tuple(n // p for n, p in zip(latents.shape[1:4], config.patch_size, strict=True))
    vae = layout.read_component(folder / "vae", "vae").config
    graphdef, params = abstract_model("vae", vae)
    decoding = operations(
        lambda params, x: nnx.merge(graphdef, params).decode(x),
        params,
        jax.ShapeDtypeStruct(latents.shape, latents.dtype),
    )
    return 2 * args.inference_steps * forward_flops(config, grid, text=0) + decoding


def psnr(ours: np.ndarray, theirs: np.ndarray) -> tuple[dict, str]:
    """Returns how far two films agree, in dB, and whether that is too little."""
    if ours.shape != theirs.shape:
        return {}, f"the films have the shapes {ours.shape} and {theirs.shape}"
    error = max(np.mean(np.square(ours.astype(float) - theirs)), 1e-9)
    found = float(10 * np.log10(255**2 / error))
    return {"psnr_db": found}, "" if found >= AGREE else f"the films agree to {found:.1f} dB alone"


def main() -> None:
    made = parser(__doc__)
    add_film(made)
    args = parse(made)
    if args.worker:
        work(args.worker, SIDES, args)
        return
    result = compare(__file__, SIDES, args, agreement=psnr)
    # Without "psnr_db" where the films have two shapes, which is among the failures.
    keys, film = ("ratio", "processor_ratio", "psnr_db"), result["cases"]["film"]
    show(result | {key: film[key] for key in keys if key in film}, args)


if __name__ == "__main__":
    main()
