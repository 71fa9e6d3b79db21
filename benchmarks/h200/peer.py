"""PyTorch's side of benchmarks/h200.sh: python peer.py PART [--tiny]. Prints rows for main.py.

The same shapes, dtypes and number of calls as ours; random weights. torch and diffusers are looked
for on the machine, and their absence is a failure of this side that main.py says.
"""

import functools
import sys

import torch
from shapes import FULL, TINY, Shapes, attention_flops, grid, rate
from worker import attempt, milliseconds, tell

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KIND = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"


def wait(_) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


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
        **rate(todo["forward"], ms, KIND, name="forward_"),
        "both_ms": total,
        **rate(todo["backward"], back, KIND, name="backward_"),
    }


def transformer(shapes: Shapes, dtype: torch.dtype):
    """Returns diffusers' module, as loaded in `dtype`; its forward pass, a function of the module;
    and its operations.
    """
    from diffusers import SkyReelsV2Transformer3DModel

    from skyreels_jax.models.dit.config import DiTConfig
    from skyreels_jax.models.dit.flops import forward_flops

    with torch.device(DEVICE):
        model = SkyReelsV2Transformer3DModel(**shapes.transformer)
        for name, parameter in model.named_parameters():
            # As `from_pretrained` has them; `to(dtype)` would cast those that it keeps in float32.
            if not set(model._keep_in_fp32_modules) & set(name.split(".")):
                parameter.data = parameter.data.to(dtype)
        latents = torch.randn(1, model.config.in_channels, *shapes.latents, dtype=dtype)
        times = torch.linspace(0, 999, shapes.latents[0])[None]
        text = torch.randn(1, shapes.text, model.config.text_dim, dtype=dtype)
    fps = [1]  # of 24, as the pipeline says it

    def forward(model) -> torch.Tensor:
        return model(
            latents, times, text, enable_diffusion_forcing=True, fps=fps, return_dict=False
        )[0]

    config = DiTConfig(**shapes.transformer)
    return model, forward, forward_flops(config, grid(shapes, config.patch_size), text=shapes.text)


@torch.no_grad()
def dit(shapes: Shapes) -> None:
    model, forward, operations = transformer(shapes, torch.bfloat16)
    model.eval()

    def timed(model) -> dict:
        ms = milliseconds(lambda: forward(model), wait, seconds=6)
        return {"ms": ms, **rate(operations, ms, KIND)}

    attempt("diffusers, eager", lambda: timed(model))
    # One block for all 30: to compile the whole takes longer than all that a part has.
    model.compile_repeated_blocks()
    attempt("diffusers, torch.compile of its blocks", lambda: timed(model))


def train(shapes: Shapes) -> None:
    attempt("diffusers, blocks computed again", functools.partial(train_step, shapes))


def train_step(shapes: Shapes) -> dict:
    """Times forward, backward and AdamW as ours: float32 parameters, products in bfloat16, and
    what blocks compute is not kept, for which there would not be enough memory.
    """
    model, forward, operations = transformer(shapes, torch.float32)
    model.train().enable_gradient_checkpointing()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=DEVICE == "cuda")

    losses = []

    def run() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            found = forward(model)
        loss = found.float().square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.detach())

    ms = milliseconds(run, wait, seconds=6)
    if not torch.isfinite(losses[-1]):
        raise ArithmeticError(f"the loss is {losses[-1]}")
    held = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    return {"ms": ms, **rate(3 * operations, ms, KIND), "GiB": held / 2**30}


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


PARTS = {"attention": attention_alone, "dit": dit, "train": train, "vae": vae}


def main() -> None:
    name, *flags = sys.argv[1:]
    if DEVICE == "cpu" and "--tiny" not in flags:
        sys.exit("torch sees no GPU; --tiny takes small shapes, on any machine")
    PARTS[name](TINY if "--tiny" in flags else FULL)
    tell("device", device=KIND, torch=torch.__version__)


if __name__ == "__main__":
    main()
