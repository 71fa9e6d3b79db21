"""Times every implementation of attention, forward and backward, against torch's SDPA.

python benchmarks/attention.py [--tokens 2048] [--heads 12] [--head_dim 128] [--dtype float32]
python benchmarks/attention.py --topology v5p:2x2x1 --tokens 32768 --dtype bfloat16

"backward" is the output and the gradients of q, k and v. The share of the peak counts the products
of attention: 4 L L N K operations forward, three and a half times as many with the gradients (what
is computed again is not counted). An implementation that refuses says why. `ratio` is that of the
fastest implementation, forward; `backward_ratio` likewise. --topology compiles for a TPU that is
not there instead: memory, and the seconds of these operations at the chip's peak.
Needs the extra "test" (torch).
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np
from machine import PEAK, jax_matmul, numpy_of, torch_device, torch_matmul, torch_wait
from side_by_side import OURS, add_dtype, compare, parse, parser, show
from topology import add_topology, refusal, show_compiled
from worker import Case, Cases, work

# All implementations, and the platform that each is for; None: any.
HOMES = {
    "reference": None,
    "chunked": None,
    "pallas_tpu": "tpu",
    "cudnn": "gpu",
    "pallas_gpu": "gpu",
}
BACKWARD = 3.5  # products with the gradients: seven against two


def inputs(args: argparse.Namespace) -> list[np.ndarray]:
    """Returns q, k, v and the gradient of the output, [B, L, N, K]."""
    shape = (args.batch, args.tokens, args.heads, args.head_dim)
    return [np.random.default_rng(i).standard_normal(shape, np.float32) for i in range(4)]


def flops(args: argparse.Namespace) -> float:
    """Returns the operations of the forward pass."""
    return 4.0 * args.batch * args.tokens**2 * args.heads * args.head_dim


def functions(args: argparse.Namespace) -> dict[str, tuple[Callable, int, float]]:
    """Returns (function, how many arrays it takes, operations) of all implementations; functions
    return tuples.
    """
    import jax

    from skyreels_jax.kernels.attention import attention

    found = {}
    for impl in [args.impl] if args.impl else HOMES:
        call = functools.partial(attention, impl=impl)
        if args.topology:
            call = functools.partial(call, platform="tpu")

        def forward(q, k, v, call=call):
            return (call(q, k, v),)

        def backward(q, k, v, grad, call=call):
            out, vjp = jax.vjp(call, q, k, v)
            return out, *vjp(grad)

        found[f"{impl} forward"] = forward, 3, flops(args)
        found[f"{impl} backward"] = backward, 4, flops(args) * BACKWARD
    return found


def ours(args: argparse.Namespace) -> Cases:
    import jax
    import jax.numpy as jnp

    arrays = [jnp.asarray(x, args.dtype) for x in inputs(args)]
    cases: dict[str, Case] = {}
    for name, (function, count, operations) in functions(args).items():
        compiled = jax.jit(function)
        taken, home = arrays[:count], HOMES[name.split()[0]]
        if home not in (None, jax.default_backend()):
            cases[name] = Case(None, refused=f"it is for a {home.upper()} alone")
            continue
        try:
            jax.block_until_ready(compiled(*taken))
        except Exception as error:  # noqa: BLE001  others than refusals are raised again
            cases[name] = Case(None, refused=refusal(error))
            continue

        def run(compiled=compiled, taken=taken) -> tuple:
            return jax.block_until_ready(compiled(*taken))

        cases[name] = Case(run, operations, array=together)
    return cases | {PEAK: jax_matmul(args.dtype)}


def together(outputs: tuple) -> np.ndarray:
    """Returns all outputs as one array, [how many, B, L, N, K]."""
    return np.stack([numpy_of(x) for x in outputs])


def torch_side(args: argparse.Namespace) -> Cases:
    import torch

    device = torch_device(args.threads)
    *parts, grad = (
        torch.from_numpy(x).to(device, getattr(torch, args.dtype)).transpose(1, 2)
        for x in inputs(args)
    )
    for x in parts:
        x.requires_grad_(True)
    sdpa = torch.nn.functional.scaled_dot_product_attention

    @torch.no_grad()
    def forward() -> tuple:
        out = sdpa(*parts)
        torch_wait(device)
        return (out,)

    def backward() -> tuple:
        out = sdpa(*parts)
        grads = torch.autograd.grad(out, parts, grad)
        torch_wait(device)
        return out, *grads

    def array(outputs: tuple) -> np.ndarray:
        return together(tuple(x.transpose(1, 2) for x in outputs))

    runs = {"forward": forward, "backward": backward}
    cases = {
        name: Case(runs[name.rpartition(" ")[2]], operations, array=array)
        for name, (_, _, operations) in functions(args).items()
    }
    return cases | {PEAK: torch_matmul(args.dtype, device)}


SIDES = {OURS: ours, "torch": torch_side}


def main() -> None:
    made = parser(__doc__)
    add_dtype(made)
    made.add_argument("--tokens", type=int, default=2048)
    made.add_argument("--heads", type=int, default=12)
    made.add_argument("--head_dim", type=int, default=128)
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--impl", choices=HOMES, help="one implementation instead of all")
    add_topology(made)
    args = parse(made)
    if args.topology and HOMES.get(args.impl) == "gpu":
        made.error(f"--impl {args.impl} is for a GPU alone")
    if args.worker:
        work(args.worker, SIDES, args)
        return
    if args.topology:
        show_compiled(args, abstract(args))
        return
    result = compare(__file__, SIDES, args)
    for way, key in (("forward", "ratio"), ("backward", "backward_ratio")):
        cases = (case for name, case in result["cases"].items() if name.endswith(way))
        ratios = [case["ratio"] for case in cases if "ratio" in case]
        if not ratios:
            result["failures"].append(f"{way}: every implementation refused")
        result[key] = min(ratios, default=None)
    show(result, args)


def abstract(args: argparse.Namespace) -> dict:
    """Returns the programs to compile, their arguments and operations by name."""
    import jax

    shape = jax.ShapeDtypeStruct((args.batch, args.tokens, args.heads, args.head_dim), args.dtype)
    return {
        name: (function, (shape,) * count, operations)
        for name, (function, count, operations) in functions(args).items()
        if HOMES[name.split()[0]] in (None, "tpu")
    }


if __name__ == "__main__":
    main()
