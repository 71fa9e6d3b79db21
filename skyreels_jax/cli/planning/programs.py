"""The programs of a run over abstract arrays: nothing is computed, nothing is in memory."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from skyreels_jax.cli.recipes import run
from skyreels_jax.cli.recipes.base import Recipe
from skyreels_jax.cli.recipes.model import abstract_model, abstract_weights
from skyreels_jax.core.types import Batch, Params
from skyreels_jax.data.buckets import Bucket
from skyreels_jax.models.kinds import as_loaded
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.parallel.mesh import BATCH
from skyreels_jax.parallel.placement import Placement, abstract
from skyreels_jax.pipelines.divided import DividedVAE
from skyreels_jax.pipelines.generate import compiled_decode, decode_chunk
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.state import TrainState, abstract_state
from skyreels_jax.training.step import TrainStep

TEXT = 512  # tokens of every text


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A compiled program; seconds: how long that took."""

    compiled: Any
    seconds: float

    @property
    def memory(self) -> dict[str, int]:
        """Bytes a device: of what goes in and stays, of what comes and goes, and of both; of the
        host's memory.
        """
        told = self.compiled.memory_analysis()
        held = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
        temporary = told.temp_size_in_bytes
        peak, host = held + temporary, told.host_temp_size_in_bytes
        return {"held": held, "temporary": temporary, "peak": peak, "host": host}


class Training(NamedTuple):
    """A step of a run, the state that it changes, and what of the model is none; placed."""

    step: TrainStep
    state: TrainState
    rest: Any


def abstract_training(recipe: Recipe, config: TrainConfig, placement: Placement) -> Training:
    """Returns the training of a run; `UserError` for meshes that do not divide its weights."""
    graphdef, params, rest = abstract_model(recipe, config, placement)
    step, tx = run.make_step(config, graphdef, params, fixed=nnx.to_pure_dict(rest))
    state = abstract_state(params, tx, ema=bool(config.ema_decay), placement=placement)
    return Training(step, state, rest)


def train_program(
    training: Training, config: TrainConfig, placement: Placement, bucket: Bucket, *, clips: int
) -> Program:
    """Compiles one training step on `clips` clips of `bucket`.

    Raises `UserError` for meshes that do not divide heads, clips or tokens.
    """
    step, state, rest = training
    batch = abstract_batch(config, placement, bucket, clips=clips)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, placement.whole))
    return _compile(jitted, (state, batch, rest), placement)


def abstract_params(recipe: Recipe, config: TrainConfig, placement: Placement) -> Params:
    """Returns the shapes of the parameters that films in bfloat16 are made with, placed."""
    params = abstract_weights(recipe, config)
    params = as_loaded(params, jnp.bfloat16)
    return abstract(params, placement.params(params))


def abstract_batch(
    config: TrainConfig, placement: Placement, bucket: Bucket, *, clips: int
) -> Batch:
    """Returns the shapes of a batch of features, placed as training places it."""
    over = NamedSharding(placement.mesh, PartitionSpec(BATCH))
    transformer = config.model.transformer

    def rows(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((clips, *shape), dtype, sharding=over)

    def one_for_all(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype, sharding=placement.whole)

    cond = {
        "context": rows(jnp.bfloat16, TEXT, transformer.text_dim),
        "context_weight": rows(jnp.float32, TEXT),
    }
    if transformer.inject_sample_info:
        cond["fps"] = rows(jnp.int32)
    texts = ("context", "context_weight")
    return {
        "latents": rows(jnp.float32, *bucket.latents, transformer.in_channels),
        "start": rows(jnp.int32),
        "given": rows(jnp.int32),
        "cond": cond,
        "null_cond": cond | {name: one_for_all(cond[name]) for name in texts},
    }


def sample_program(
    recipe: Recipe, config: TrainConfig, placement: Placement, bucket: Bucket, *, clips: int
) -> Program:
    """Compiles one evaluation of the velocity of `clips` clips, with and without their texts (so of
    twice as many), in bfloat16: what sampling does in every step.
    """
    graphdef, _, rest = abstract_model(recipe, config, placement)
    params = abstract_params(recipe, config, placement)
    batch = abstract_batch(config, placement, bucket, clips=2 * clips)
    placement.rows(2 * clips)
    time_ = jax.ShapeDtypeStruct((2 * clips, 1), jnp.float32, sharding=placement.whole)

    def velocity(params, rest, latents, time, cond):
        return nnx.merge(graphdef, params, rest)(latents, time, **cond)

    arguments = (params, rest, batch["latents"], time_, batch["cond"])
    return _compile(jax.jit(velocity), arguments, placement)


def decode_program(vae: VAEConfig, placement: Placement, bucket: Bucket) -> Program:
    """Compiles how the VAE decodes one latent frame of a film of `bucket`, behind others, into four
    frames; float32, every picture divided among all devices.
    """
    graphdef, params = abstract_vae(vae, placement)
    latents = jax.ShapeDtypeStruct((1, 1, *bucket.latents[1:], vae.z_dim), jnp.float32)
    latents = abstract(latents, placement.whole)
    first = _compile(compiled_decode, (graphdef, params, latents, None), placement)
    _, _, where = first.compiled.output_shardings
    _, _, cache = jax.eval_shape(decode_chunk, graphdef, params, latents, None)
    cache = abstract(cache, where)
    later = _compile(compiled_decode, (graphdef, params, latents, cache), placement)
    return dataclasses.replace(later, seconds=first.seconds + later.seconds)


def abstract_vae(vae: VAEConfig, placement: Placement) -> tuple[nnx.GraphDef, Params]:
    """Returns structure and shapes of a VAE as films are decoded by, whole on every device."""

    def make() -> DividedVAE:
        return DividedVAE(AutoencoderKLWan(vae, rngs=nnx.Rngs(0)), placement.mesh)

    graphdef, params = nnx.split(nnx.eval_shape(make))
    return graphdef, abstract(params, jax.tree.map(lambda _: placement.whole, params))


def _compile(jitted: Any, arguments: tuple, placement: Placement) -> Program:
    """Compiles for the devices of the placement; `UserError` where their memory is too small."""
    begun = time.perf_counter()
    with jax.set_mesh(placement.mesh):
        lowered = jitted.lower(*arguments)
        compiled = lowered.compile()
    return Program(compiled=compiled, seconds=time.perf_counter() - begun)
