"""Times the diffusion transformer, forward and a training step, against diffusers' module.

python benchmarks/dit.py [--width 1536] [--layers 2] [--grid 8 16 16] [--dtype float32] [--compile]
python benchmarks/dit.py --topology v5p:2x2x1 --dtype bfloat16 --layers 30 --grid 25 34 60

The same random weights; the defaults are the widths of 1.3B, two layers, 2,048 tokens. A training
step is the gradient of a mean square and plain descent. `ratio` is that of the forward pass,
`train_ratio` that of the step. Compared are the outputs, and the gradients of the first bias, which
come last and through all layers. --compile adds torch.compile (forward).
--topology compiles for a TPU that is not there instead: memory, and seconds at the chip's peak.
Needs the extra "test" (diffusers and torch).
"""

import argparse
import pathlib
import tempfile

import numpy as np
from machine import PEAK, jax_matmul, numpy_of, torch_device, torch_matmul, torch_wait
from side_by_side import OURS, add_dtype, compare, parse, parser, show
from topology import add_topology, brief, show_compiled
from transformer import add_sizes, config_of, write
from worker import Case, Cases, work

RATE = 1e-9  # of descent


def inputs(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns latents (channels last), a time and the states of a text."""
    rng = np.random.default_rng(0)
    frames, height, width = args.grid
    latents = rng.standard_normal((1, frames, 2 * height, 2 * width, 16), np.float32)
    context = rng.standard_normal((1, args.text, args.text_dim), np.float32)
    return latents, np.full((1,), 500.0, np.float32), context


def programs(args: argparse.Namespace, graphdef, config) -> dict:
    """Returns (function of parameters and inputs, operations) by name."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from skyreels_jax.models.dit.flops import forward_flops, train_flops

    def forward(params, latents, time, context):
        return nnx.merge(graphdef, params)(latents, time[:, None], context)

    def train(params, latents, time, context):
        def loss(params):
            return jnp.mean(jnp.square(forward(params, latents, time, context)))

        grads = jax.grad(loss)(params)
        new = jax.tree.map(lambda p, g: p - jnp.asarray(RATE, p.dtype) * g, params, grads)
        return new, grads["patch_embedding"]["bias"]

    grid = tuple(args.grid)
    return {
        "forward": (forward, forward_flops(config, grid, text=args.text)),
        "train step": (train, train_flops(config, grid, text=args.text)),
    }


def ours(args: argparse.Namespace) -> Cases:
    import jax
    import jax.numpy as jnp

    from skyreels_jax.models import layout
    from skyreels_jax.nn.whole import taken_apart
    from skyreels_jax.training.loop import compiler_options

    component = layout.read_component(pathlib.Path(args.folder), "transformer")
    graphdef, params = taken_apart(layout.load_component(component, dtype=args.dtype))
    arrays = [jnp.asarray(x) for x in inputs(args)]
    made = programs(args, graphdef, component.config)
    forward = jax.jit(made["forward"][0])
    train = jax.jit(made["train step"][0], donate_argnums=0, compiler_options=compiler_options())
    state = [params]

    def run() -> jax.Array:
        return forward(state[0], *arrays).block_until_ready()

    def step() -> jax.Array:
        state[0], grad = jax.block_until_ready(train(state[0], *arrays))
        return grad

    return {
        "forward": Case(run, made["forward"][1], array=numpy_of),
        "train step": Case(step, made["train step"][1], array=numpy_of),
        PEAK: jax_matmul(args.dtype),
    }


def torch_side(args: argparse.Namespace, *, compiled: bool = False) -> Cases:
    import torch
    from diffusers import SkyReelsV2Transformer3DModel

    device = torch_device(args.threads)
    dtype = getattr(torch, args.dtype)
    model = SkyReelsV2Transformer3DModel.from_pretrained(args.folder, torch_dtype=dtype)
    model = model.to(device)
    latents, time, context = inputs(args)
    latents = torch.from_numpy(np.moveaxis(latents, -1, 1).copy()).to(device, dtype)
    time, context = torch.from_numpy(time).to(device), torch.from_numpy(context).to(device, dtype)
    call = torch.compile(model) if compiled else model

    @torch.no_grad()
    def forward() -> torch.Tensor:
        found = call(latents, timestep=time, encoder_hidden_states=context, return_dict=False)[0]
        torch_wait(device)
        return found

    if compiled:
        try:
            forward()
        except torch._dynamo.exc.TorchDynamoException as error:  # there is no C++ compiler, say
            return {"forward": Case(None, refused=brief(error))}
        return {"forward": Case(forward)}
    descent = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> torch.Tensor:
        found = model(latents, timestep=time, encoder_hidden_states=context, return_dict=False)[0]
        found.square().mean().backward()
        descent.step()
        grad = model.patch_embedding.bias.grad
        descent.zero_grad()  # lets go of it, and does not write zeros
        torch_wait(device)
        return grad

    return {
        "forward": Case(forward, array=lambda found: np.moveaxis(numpy_of(found), 1, -1)),
        "train step": Case(step, array=numpy_of),
        PEAK: torch_matmul(args.dtype, device),
    }


def torch_compiled(args: argparse.Namespace) -> Cases:
    return torch_side(args, compiled=True)


def main() -> None:
    made = parser(__doc__)
    add_dtype(made)
    add_sizes(made, layers=2)
    made.add_argument("--grid", type=int, nargs=3, default=(8, 16, 16), metavar=("T", "H", "W"))
    made.add_argument("--text", type=int, default=512, help="tokens of the text (default 512)")
    made.add_argument("--compile", action="store_true", help="torch.compile as well")
    add_topology(made)
    args = parse(made)
    sides = {OURS: ours, "torch": torch_side}
    if args.compile:
        sides["torch_compile"] = torch_compiled
    if args.worker:
        work(args.worker, sides, args)
        return
    if args.topology:
        show_compiled(args, abstract(args))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(folder, args)
        result = compare(__file__, sides, args, flags=["--folder", folder])
    result["ratio"] = result["cases"]["forward"]["ratio"]
    result["train_ratio"] = result["cases"]["train step"]["ratio"]
    show(result, args)


def abstract(args: argparse.Namespace) -> dict:
    """Returns the programs to compile, their arguments and operations by name."""
    import jax
    import jax.numpy as jnp

    from skyreels_jax.models.kinds import abstract_model, as_loaded

    config = config_of(args)
    graphdef, params = abstract_model("transformer", config)
    arrays = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in inputs(args)]
    params = as_loaded(params, args.dtype)
    return {
        name: (function, (params, *arrays), operations)
        for name, (function, operations) in programs(args, graphdef, config).items()
    }


if __name__ == "__main__":
    main()
