"""The one step on eight devices, divided in every way, is the step on one."""

import collections
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skyreels_jax.checkpoint import Checkpoints
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.kernels.attention import Attention, attention
from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.models.dit.modeling import SkyReelsV2Transformer3D
from skyreels_jax.models.dit.sharding import sharding_rules
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.models.umt5.config import UMT5Config
from skyreels_jax.models.umt5.modeling import UMT5Encoder
from skyreels_jax.models.umt5.sharding import SHARDING_RULES
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.parallel.context import ContextAttention
from skyreels_jax.parallel.mesh import MeshConfig, make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.parallel.rules import within
from skyreels_jax.training.config import OptimizerConfig, PolicyConfig
from skyreels_jax.training.optimizer import make_optimizer
from skyreels_jax.training.state import TrainState, abstract_state, init_state
from skyreels_jax.training.step import make_train_step

STEPS, BATCH, FRAMES = 3, 8, 4
TEXT = UMT5Config(vocab_size=40, d_model=32, d_kv=4, d_ff=48, num_layers=2, num_heads=8)
MODEL = DiTConfig(
    num_attention_heads=8,
    attention_head_dim=6,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    num_frame_per_block=2,
)
RULES = (
    *within("transformer", sharding_rules(MODEL)),
    *within("text_encoder", SHARDING_RULES),
)
MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=8),
    "ulysses": MeshConfig(context=8),
    "ring": MeshConfig(context=8, attention="ring"),
    "fsdp, tensor, context": MeshConfig(fsdp=2, tensor=2, context=2),
    "data, fsdp, ring": MeshConfig(data=2, fsdp=2, context=2, attention="ring"),
}


def batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        cond = {
            "input_ids": rng.integers(0, 40, (BATCH, 8)).astype(np.int32),
            "length": rng.integers(1, 9, BATCH).astype(np.int32),
        }
        yield {
            "latents": rng.standard_normal((BATCH, FRAMES, 8, 8, 4)).astype(np.float32),
            "start": np.zeros(BATCH, np.int32),
            "given": np.zeros(BATCH, np.int32),
            "cond": cond,
            # For all clips, as batches of features have it.
            "null_cond": {"input_ids": np.zeros((1, 8), np.int32), "length": np.ones(1, np.int32)},
        }


class Program(NamedTuple):
    """The compiled step on some devices, and what it takes.

    like: shapes and places of the state; begin: makes the first one.
    """

    jitted: Callable
    like: TrainState
    begin: Callable[[], TrainState]
    rest: Any
    placement: Placement | None

    def __call__(self, state, batch):
        """Returns the state after a step on `batch`, and the loss."""
        if self.placement is None:
            state, metrics = self.jitted(state, batch, self.rest)
        else:
            with jax.set_mesh(self.placement.mesh):
                state, metrics = self.jitted(state, self.placement.batch(batch), self.rest)
        return state, float(metrics["loss"])

    def sums(self, batch):
        """Returns {path: shape on one device} of the sums over micro-batches of gradients."""
        with jax.set_mesh(self.placement.mesh):
            lowered = self.jitted.lower(self.like, self.placement.batch(batch), self.rest)
        text = lowered.compile().as_text()
        (loop,) = re.findall(r"= \((.*)\) while\(.*op_name=\"jit\(train_step\)/while\"", text)
        carried = re.findall(r"\w+\[([\d,]*)\]", loop)[1:]  # behind a counter
        names = [name for name, _ in named_leaves(self.like.params)]
        found = zip(names, carried, strict=False)  # the objective's own sums come after them
        return {name: tuple(map(int, re.findall(r"\d+", sizes))) for name, sizes in found}


def placed(mesh: MeshConfig) -> Placement:
    return Placement(mesh=make_mesh(mesh), rules=RULES)


def model(attend=attention) -> TextToVideo:
    return TextToVideo(
        SkyReelsV2Transformer3D(MODEL, attention=attend, rngs=nnx.Rngs(0)),
        UMT5Encoder(TEXT, rngs=nnx.Rngs(1)),
    )


@functools.cache
def program(mesh: MeshConfig | None, accumulate: int = 1) -> Program:
    placement, attend = None, attention
    if mesh is not None:
        placement = placed(mesh)
        parts = {"kind": mesh.attention, "attention": Attention()}
        attend = ContextAttention(mesh=placement.mesh, **parts)
    graphdef, params, rest = nnx.split(model(attend), nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    # The last layer begins at zero, and nothing before it would learn.
    params["transformer"]["head"]["kernel"] += 0.1
    tx = make_optimizer(OptimizerConfig(warmup_steps=0, muon_iterations=2), params, STEPS)
    options = {"seed": 5, "ema_decay": 0.9, "accumulate": accumulate}
    step = make_train_step(DiffusionForcing(), tx, graphdef, **options)
    if placement is not None:
        params = jax.device_put(params, placement.params(params))
    mirrored = {"ema": True, "placement": placement}
    like = abstract_state(params, tx, **mirrored)
    where = jax.tree.map(lambda x: x.sharding, like)
    # Compiled for most of a minute (with optimisation, for a whole one), run for a second.
    options = {"xla_backend_optimization_level": 0}
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None), compiler_options=options)
    begin = functools.partial(init_state, params, tx, **mirrored)
    return Program(jitted, like, begin, rest, placement)


def assert_placed(state, like):
    """The arrays of a state are where `like` says."""
    where = [jax.tree.map(lambda x: x.sharding, tree) for tree in (state, like)]
    assert where[0] == where[1]


def assert_close(state, wanted):
    for name in ("params", "ema"):
        pairs = zip(getattr(state, name).items(), getattr(wanted, name).items(), strict=True)
        for (_, ours), (_, theirs) in pairs:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)


@functools.cache
def trained(mesh: MeshConfig | None, accumulate: int = 1):
    """Returns losses, the state after `STEPS` steps, how often the step was compiled."""
    step = program(mesh, accumulate)
    state, losses = step.begin(), []
    assert_placed(state, step.like)
    for batch in batches():
        state, loss = step(state, batch)
        losses.append(loss)
    assert_placed(state, step.like)
    return np.array(losses), state, step.jitted._cache_size()


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_losses_and_weights_are_those_of_one_device(mesh):
    losses, state, compiled = trained(mesh)
    expected, wanted, _ = trained(None)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    for name in ("params", "ema"):
        pairs = zip(getattr(state, name).items(), getattr(wanted, name).items(), strict=True)
        for (_, ours), (_, theirs) in pairs:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)
    assert compiled == 1


def test_micro_batches_of_a_divided_batch():
    """Their losses; and that no device sums up more of a kernel's gradient than it has of it."""
    mesh = MESHES["fsdp, tensor, context"]
    losses, _, _ = trained(mesh, accumulate=2)
    np.testing.assert_allclose(losses, trained(None, accumulate=2)[0], atol=1e-5)
    step = program(mesh, accumulate=2)
    sums, kernels = step.sums(next(batches())), 0
    for path, like in named_leaves(step.like.params):
        part = like.sharding.shard_shape(like.shape)
        assert math.prod(sums[path]) <= math.prod(part), path  # of what all hold, it may be less
        if path.endswith("/kernel"):
            assert sums[path] == part != like.shape, path
            kernels += 1
    assert kernels == 24


@pytest.mark.slow  # traces two programs again where it is not run beside the tests above
def test_a_run_goes_on_on_another_mesh_and_back(tmp_path):
    """fsdp 8, then fsdp 2 x tensor 2 x context 2, then fsdp 8, a checkpoint between each two."""
    eight, other = (program(MESHES[name]) for name in ("fsdp", "fsdp, tensor, context"))
    losses, state = [], eight.begin()
    for step, (on, batch) in enumerate(zip((eight, other, eight), batches(), strict=True)):
        if step:
            with Checkpoints(tmp_path, keep=1) as checkpoints:
                checkpoints.save(step, state, data={}, config={})
            with Checkpoints(tmp_path) as checkpoints:
                state, _ = checkpoints.restore(step, on.like)
            assert_placed(state, on.like)
        state, loss = on(state, batch)
        losses.append(loss)
    expected, wanted, compiled = trained(MESHES["fsdp"])
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert_close(state, wanted)
    assert compiled == other.jitted._cache_size() == 1  # a restored state is where a made one is


@functools.cache
def abstract_params():
    return nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.state(model(), nnx.Param)))


@pytest.mark.parametrize("name", ["muon", "adam"])
@pytest.mark.parametrize("mesh", ["fsdp", "fsdp, tensor, context", "data, fsdp, ring"])
def test_every_part_of_the_state_is_placed_as_its_parameter(mesh, name):
    placement, params = placed(MESHES[mesh]), abstract_params()
    policies = (
        PolicyConfig(paths="text_encoder/.*", frozen=True),
        PolicyConfig(paths="transformer/head/kernel", learning_rate=0.5, adam=True),
    )
    config = OptimizerConfig(name=name, policies=policies)
    tx = make_optimizer(config, params, STEPS)
    state = abstract_state(params, tx, ema=True, placement=placement)
    places = dict(named_leaves(placement.params(params)))
    shapes = {path: leaf.shape for path, leaf in named_leaves(params)}
    found = collections.Counter()
    for path, leaf in named_leaves(state):
        if (owned := re.fullmatch(r".*?/((transformer|text_encoder)/.*)", path)) is None:
            assert leaf.sharding.is_fully_replicated and leaf.size <= 15, path  # counts, constants
        else:
            owner = owned[1]
            assert (leaf.shape, leaf.sharding) == (shapes[owner], places[owner]), path
            found[owner] += 1
    for path in places:  # weights, average, and the moments of what is trained
        muon = name == "muon" and path.endswith("/kernel") and path != "transformer/head/kernel"
        moments = 0 if path.startswith("text_encoder/") else 1 if muon else 2
        assert found[path] == 2 + moments, path
    assert not any(places[path].is_fully_replicated for path in places if path.endswith("kernel"))


def test_jnp_is_not_promoted():
    """Placing a batch keeps its types."""
    placement = Placement(mesh=make_mesh(MESHES["fsdp"]), rules=RULES)
    batch = next(iter(batches()))
    placed = placement.batch(batch)
    types = jax.tree.map(lambda x: jnp.dtype(x.dtype), (batch, placed))
    assert types[0] == types[1]
