"""Times one film through skyreels_jax and through PyTorch diffusers: the same weights and noise.

python benchmarks/film.py [--model tiny] [--runs 5] [--threads 2] [--json]

Each side is a process of its own that loads the model and makes one film to warm up; then the two
take turns, one film each, so that a machine whose speed drifts is the same for both. Printed are
the seconds of either side (minimum, median, maximum), the median of the ratios of neighbours
(below 1: ours is faster), and the PSNR between the two films in dB.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

PROMPT = "A red ring glides slowly to the right in a meadow, close-up."
SIDES = ("ours", "diffusers")


def ours(folder: str, args: argparse.Namespace):
    """Returns a function that makes the film here: () -> uint8 [T, H, W, 3]."""
    import skyreels_jax as sr

    model = sr.load(folder, dtype="float32")
    options = {"inference_steps": args.inference_steps, "num_frames": args.num_frames}
    return lambda: model.generate(PROMPT, latents=noise(folder, args), **options).frames


def diffusers(folder: str, args: argparse.Namespace):
    """Returns a function that makes the film in PyTorch diffusers: () -> uint8 [T, H, W, 3]."""
    import torch
    from diffusers import SkyReelsV2Pipeline

    torch.set_num_threads(args.threads)
    pipe = SkyReelsV2Pipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    defaults = json.loads((pathlib.Path(folder) / "skyreels_jax.json").read_text())

    def make() -> np.ndarray:
        latents = torch.from_numpy(np.moveaxis(noise(folder, args), -1, 1).copy())
        frames = pipe(
            PROMPT,
            negative_prompt=defaults["negative_prompt"],
            latents=latents,
            height=defaults["height"],
            width=defaults["width"],
            num_frames=args.num_frames,
            num_inference_steps=args.inference_steps,
            guidance_scale=defaults["guidance_scale"],
            output_type="np",
        ).frames[0]
        return np.round(frames * 255).astype(np.uint8)

    return make


def noise(folder: str, args: argparse.Namespace) -> np.ndarray:
    """Returns the initial noise of both sides, float32 [1, T, H, W, C]."""
    path = pathlib.Path(folder)
    defaults = json.loads((path / "skyreels_jax.json").read_text())
    channels = json.loads((path / "vae" / "config.json").read_text())["z_dim"]
    shape = ((args.num_frames + 3) // 4, defaults["height"] // 8, defaults["width"] // 8, channels)
    return np.random.default_rng(0).standard_normal((1, *shape), np.float32)


def work(side: str, folder: str, args: argparse.Namespace) -> None:
    """Makes a film for every line on stdin that names a file for its frames; answers in seconds."""
    make = {"ours": ours, "diffusers": diffusers}[side](folder, args)
    make()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        frames = make()
        seconds = time.perf_counter() - start
        np.save(line.strip(), frames)
        print(seconds, flush=True)


def compare(folder: str, args: argparse.Namespace) -> dict:
    """Returns the timings of both sides, their ratio and the agreement of their films."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("inference_steps", "num_frames")]
    flags += [f"--threads={args.threads}", f"--model={folder}"]
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--worker", side, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    seconds = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for worker in workers.values():
                if worker.stdout.readline().strip() != "ready":
                    raise SystemExit("a side failed to start; its error is above")
            for _ in range(args.runs):
                for side, worker in workers.items():
                    print(f"{scratch}/{side}.npy", file=worker.stdin, flush=True)
                    seconds[side].append(float(worker.stdout.readline()))
        finally:
            for worker in workers.values():
                worker.stdin.close()
                worker.wait()
        films = [np.load(f"{scratch}/{side}.npy").astype(float) for side in SIDES]
    pairs = zip(seconds["ours"], seconds["diffusers"], strict=True)
    error = max(np.mean(np.square(films[0] - films[1])), 1e-9)
    return {
        **{f"{side}_seconds": values for side, values in seconds.items()},
        "ratio": statistics.median(a / b for a, b in pairs),
        "psnr_db": float(10 * np.log10(255**2 / error)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny", help="tiny, or a diffusers folder of ours")
    parser.add_argument("--runs", type=int, default=5, help="films a side (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument("--num_frames", type=int, default=33)
    parser.add_argument("--inference_steps", type=int, default=25)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.model
    if folder == "tiny":
        import skyreels_jax

        folder = str(pathlib.Path(skyreels_jax.__file__).parent / "assets" / "tiny")
    if args.worker:
        work(args.worker, folder, args)
        return
    result = compare(folder, args)
    if args.json:
        print(json.dumps(result))
        return
    for side in SIDES:
        values = sorted(result[f"{side}_seconds"])
        low, middle, high = values[0], statistics.median(values), values[-1]
        print(f"{side:10} {low:7.2f} {middle:7.2f} {high:7.2f} s (min, median, max)")
    print(f"ratio ours/diffusers {result['ratio']:.2f}, films agree to {result['psnr_db']:.1f} dB")


if __name__ == "__main__":
    main()
