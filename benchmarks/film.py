"""Times one film through skyreels_jax and through PyTorch diffusers: the same weights and noise.

python benchmarks/film.py [--model tiny] [--runs 5] [--threads 2] [--json]

Each side is a process of its own that loads the model and makes one film to warm up; then the two
take turns, one film each. Printed are the seconds of either side, the medians of the ratios of
neighbours (below 1: ours is faster), and the PSNR between the two films in dB.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import json
import pathlib

import numpy as np
from side_by_side import OURS, Case, Cases, add_device, compare, parser, show, torch_device, work

PROMPT = "A red ring glides slowly to the right in a meadow, close-up."


def ours(args: argparse.Namespace) -> Cases:
    import skyreels_jax as sr

    model = sr.load(args.model, dtype="float32")
    options = {"inference_steps": args.inference_steps, "num_frames": args.num_frames}
    return {"film": Case(lambda: model.generate(PROMPT, latents=noise(args), **options).frames)}


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

    return {"film": Case(make)}


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


def psnr(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Returns how far two films agree."""
    error = max(np.mean(np.square(ours.astype(float) - theirs)), 1e-9)
    return {"psnr_db": float(10 * np.log10(255**2 / error))}


def main() -> None:
    made = parser(__doc__)
    add_device(made, dtype=False)
    made.add_argument("--model", default="tiny", help="tiny, or a diffusers folder of ours")
    made.add_argument("--num_frames", type=int, default=33)
    made.add_argument("--inference_steps", type=int, default=25)
    args = made.parse_args()
    if args.worker:
        work(args.worker, SIDES, args)
        return
    result = compare(__file__, SIDES, args, agreement=psnr)
    show(result | {k: v for k, v in result["cases"]["film"].items() if k in KEYS}, args)


KEYS = ("ratio", "processor_ratio", "psnr_db")

if __name__ == "__main__":
    main()
