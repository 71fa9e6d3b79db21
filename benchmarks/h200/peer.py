"""PyTorch's side of benchmarks/h200.sh: python peer.py PART [--tiny]. Prints rows for main.py.

The same shapes, dtype and number of calls as ours; random weights. torch and diffusers are looked
for on the machine, and their absence is a failure of this side that main.py says.
"""

import functools
import sys

import torch
from shapes import FULL, TINY, Shapes, attention_flops
from timing import attempt, milliseconds, tell

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait(_) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def rate(operations: float, ms: float) -> dict:
    return {"tflops": operations / ms / 1e9}


def attention_alone(shapes: Shapes) -> None:
    from torch.nn.attention import SDPBackend

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    if DEVICE == "cpu":
        backends = {"math": SDPBackend.MATH}
    for name, backend in backends.items():
        attempt(f"SDPA {name}", functools.partial(sdpa, shapes, backend))


def sdpa(shapes: Shapes, backend) -> dict:
    from torch.nn.attention import sdpa_kernel

    shape = (1, shapes.heads, shapes.tokens, shapes.width)
    q, k, v = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    g, todo = torch.randn_like(q), attention_flops(shapes)

    def forward():
        with torch.no_grad(), sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def both():
        with sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return torch.autograd.grad(out, (q, k, v), g)

    ms, total = (milliseconds(run, wait, seconds=1.0) for run in (forward, both))
    back = max(total - ms, 1e-6)
    return {
        "ms": ms,
        "forward_ms": ms,
        "forward_tflops": todo["forward"] / ms / 1e9,
        "both_ms": total,
        "backward_tflops": todo["backward"] / back / 1e9,
    }


@torch.no_grad()
def dit(shapes: Shapes) -> None:
    from diffusers import SkyReelsV2Transformer3DModel

    with torch.device(DEVICE):
        model = SkyReelsV2Transformer3DModel(**shapes.transformer).to(torch.bfloat16).eval()
        latents = torch.randn(1, model.config.in_channels, *shapes.latents, dtype=torch.bfloat16)
        times = torch.linspace(0, 999, shapes.latents[0])[None]
        text = torch.randn(1, shapes.text, model.config.text_dim, dtype=torch.bfloat16)
        fps = torch.ones(1, dtype=torch.long)

    def forward(model):
        return model(
            latents, times, text, enable_diffusion_forcing=True, fps=fps, return_dict=False
        )[0]

    def timed(model, seconds: float) -> dict:
        return {"ms": milliseconds(lambda: forward(model), wait, seconds=seconds)}

    attempt("diffusers, eager", lambda: timed(model, 6))
    attempt("diffusers, torch.compile", lambda: timed(torch.compile(model), 6))


@torch.no_grad()
def vae(shapes: Shapes) -> None:
    from diffusers import AutoencoderKLWan

    with torch.device(DEVICE):
        model = AutoencoderKLWan(**shapes.vae).to(torch.bfloat16).eval()
        latents = torch.randn(1, model.config.z_dim, *shapes.latents, dtype=torch.bfloat16)

    def run():
        return model.decode(latents, return_dict=False)[0]

    def timed() -> dict:
        frames = run().shape[2]
        return {"ms": milliseconds(run, wait, seconds=4), "frames": frames}

    attempt("diffusers, eager", timed)


PARTS = {"attention": attention_alone, "dit": dit, "vae": vae}


def main() -> None:
    name, *flags = sys.argv[1:]
    if DEVICE == "cpu" and "--tiny" not in flags:
        sys.exit("torch sees no GPU; --tiny takes small shapes, on any machine")
    PARTS[name](TINY if "--tiny" in flags else FULL)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    tell("device", device=device, torch=torch.__version__)


if __name__ == "__main__":
    main()
