"""The one step on eight devices, divided in every way, is the step on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
from skyreels_jax.training.config import OptimizerConfig
from skyreels_jax.training.optimizer import make_optimizer
from skyreels_jax.training.state import init_state
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


@functools.cache
def trained(mesh: MeshConfig | None, accumulate: int = 1):
    """Returns losses, the state after `STEPS` steps, how often the step was compiled."""
    placement, attend = None, attention
    if mesh is not None:
        placement = Placement(mesh=make_mesh(mesh), rules=RULES)
        parts = {"kind": mesh.attention, "attention": Attention()}
        attend = ContextAttention(mesh=placement.mesh, **parts)
    model = TextToVideo(
        SkyReelsV2Transformer3D(MODEL, attention=attend, rngs=nnx.Rngs(0)),
        UMT5Encoder(TEXT, rngs=nnx.Rngs(1)),
    )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    # The last layer begins at zero, and nothing before it would learn.
    params["transformer"]["head"]["kernel"] += 0.1
    tx = make_optimizer(OptimizerConfig(warmup_steps=0, muon_iterations=2), params, STEPS)
    options = {"seed": 5, "ema_decay": 0.9, "accumulate": accumulate}
    step = make_train_step(DiffusionForcing(), tx, graphdef, **options)
    if placement is not None:
        params = jax.device_put(params, placement.params(params))
    state = init_state(params, tx, ema=True, placement=placement)
    where = jax.tree.map(lambda x: x.sharding, state)
    # Compiled for most of a minute (with optimisation, for a whole one), run for a second.
    options = {"xla_backend_optimization_level": 0}
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None), compiler_options=options)
    losses = []
    for batch in batches():
        if placement is None:
            state, metrics = jitted(state, batch, rest)
        else:
            with jax.set_mesh(placement.mesh):
                state, metrics = jitted(state, placement.batch(batch), rest)
        losses.append(float(metrics["loss"]))
    assert jax.tree.map(lambda x: x.sharding, state) == where
    return np.array(losses), state, jitted._cache_size()


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
    mesh = MESHES["fsdp, tensor, context"]
    losses, _, _ = trained(mesh, accumulate=2)
    np.testing.assert_allclose(losses, trained(None, accumulate=2)[0], atol=1e-5)


def test_what_mirrors_weights_is_placed_as_they_are():
    _, state, _ = trained(MESHES["fsdp"])
    kernel = "transformer/blocks/ffn/up/kernel"
    found = {
        name: leaf for name, leaf in named_leaves(state) if name.endswith(kernel) and leaf.ndim == 3
    }
    assert len(found) == 3  # the weights, their average, the momentum of Muon
    for name, leaf in found.items():
        assert leaf.addressable_shards[0].data.size * 8 == leaf.size, name
    assert isinstance(state.step, jax.Array) and state.step.sharding.is_fully_replicated


def test_jnp_is_not_promoted():
    """Placing a batch keeps its types."""
    placement = Placement(mesh=make_mesh(MESHES["fsdp"]), rules=RULES)
    batch = next(iter(batches()))
    placed = placement.batch(batch)
    types = jax.tree.map(lambda x: jnp.dtype(x.dtype), (batch, placed))
    assert types[0] == types[1]
