"""One film by many devices: the two sides of guidance, tokens, heads, weights and pictures divided.

A film is the same, to rounding, whatever the mesh.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.kernels.attention import Attention
from skyreels_jax.models.dit.sharding import sharding_rules
from skyreels_jax.models.kinds import abstract_model
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.models.umt5.sharding import SHARDING_RULES
from skyreels_jax.models.vae.modeling import AutoencoderKLWan
from skyreels_jax.parallel.context import ContextAttention
from skyreels_jax.parallel.mesh import AXES, BATCH, MeshConfig, make_mesh
from skyreels_jax.parallel.rules import WHOLE, shardings, within
from skyreels_jax.pipelines.generate import is_guided

if TYPE_CHECKING:
    from skyreels_jax.pipelines.source import ModelSource
    from skyreels_jax.pipelines.validate import Request


@runtime_checkable
class Divided(Protocol):
    """A module whose weights go over the devices of `mesh`."""

    mesh: Mesh

    def placed(self, params: Params) -> Params:
        """Returns `params`, each device with its part."""
        ...


class DividedModel(TextToVideo):
    """`TextToVideo` on the devices of `mesh`; attention: how those that share tokens attend."""

    def __init__(self, transformer: nnx.Module, text_encoder: nnx.Module, *, config: MeshConfig):
        super().__init__(transformer, text_encoder)
        self.mesh = make_mesh(config)
        transformer.attention = ContextAttention(
            mesh=self.mesh,
            kind=config.attention,
            attention=Attention(self.mesh.devices.flat[0].platform),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            velocity = super().__call__(*args, **kwargs)
        return jax.lax.with_sharding_constraint(velocity, whole(self.mesh))

    def read(self, *args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return super().read(*args, **kwargs)

    def placed(self, params: Params) -> Params:
        """Returns `params`, each device with its part."""
        rules = (
            *within("transformer", sharding_rules(self.transformer.config)),
            *within("text_encoder", SHARDING_RULES),
        )
        return jax.device_put(params, shardings(params, rules, self.mesh))


class DividedVAE(nnx.Module):
    """A VAE on the devices of `mesh`, each with a part of every picture (`cut`)."""

    def __init__(self, vae: AutoencoderKLWan, mesh: Mesh):
        self.vae, self.mesh = vae, mesh

    @property
    def config(self) -> Any:
        return self.vae.config

    def encode(self, video: Array, **options: Any) -> Any:
        """As `AutoencoderKLWan.encode`."""
        return self.vae.encode(self._cut(video), **options)

    def encode_chunk(self, video: Array, cache: Any = None) -> Any:
        """As `AutoencoderKLWan.encode_chunk`."""
        return self.vae.encode_chunk(self._cut(video), cache)

    def decode(self, latents: Array, **options: Any) -> Array:
        """As `AutoencoderKLWan.decode`."""
        return self.vae.decode(self._cut(latents), **options)

    def decode_chunk(self, latents: Array, cache: Any = None) -> Any:
        """As `AutoencoderKLWan.decode_chunk`."""
        return self.vae.decode_chunk(self._cut(latents), cache)

    def normalize(self, latents: Array) -> Array:
        """As `AutoencoderKLWan.normalize`."""
        return self.vae.normalize(latents)

    def denormalize(self, latents: Array) -> Array:
        """As `AutoencoderKLWan.denormalize`."""
        return self.vae.denormalize(latents)

    def _cut(self, x: Array) -> Array:
        where = NamedSharding(self.mesh, cut(x.shape[2:4], self.mesh))
        return jax.lax.with_sharding_constraint(x, where)

    def placed(self, params: Params) -> Params:
        """Returns `params`, all of them on every device."""
        return jax.device_put(params, whole(self.mesh))


def whole(mesh: Mesh) -> NamedSharding:
    """Returns where latents are: all of them on every device, before a step and after it, so that
    one program serves the first step and all others."""
    return NamedSharding(mesh, PartitionSpec())


def places(configs: Mapping[str, Any], config: MeshConfig) -> dict[str, dict[str, NamedSharding]]:
    """Returns where `placed` would have the leaves of transformer, text encoder and VAE with these
    configurations, by their paths.
    """
    mesh = make_mesh(config)
    rules = {
        "transformer": sharding_rules(configs["transformer"]),
        "text_encoder": SHARDING_RULES,
        "vae": WHOLE,
    }
    return {
        name: dict(named_leaves(shardings(abstract_model(name, configs[name])[1], rule, mesh)))
        for name, rule in rules.items()
    }


def cut(size: tuple[int, int], mesh: Mesh) -> PartitionSpec:
    """Returns over which mesh axes a picture [B, T, H, W, C] of `size` (H, W) goes: its longer side
    over as many of them as divide it, then its shorter one. The devices of those that divide
    neither do the same work.
    """
    over: dict[int, tuple[str, ...]] = {0: (), 1: ()}
    left = list(size)
    for axis in sorted(AXES, key=lambda name: -mesh.shape[name]):
        for side in sorted((0, 1), key=lambda side: -size[side]):
            if left[side] % mesh.shape[axis] == 0:
                left[side] //= mesh.shape[axis]
                over[side] += (axis,)
                break
    return PartitionSpec(None, None, over[0], over[1])


def check_mesh(config: MeshConfig | None, source: "ModelSource", request: "Request") -> None:
    """Raises `UserError` where the devices cannot share what a request asks for; None: there is
    one.
    """
    if config is None:
        return
    if request.film.cached:
        raise UserError(
            "--mesh: films of causal models are made on one device; leave it out, or give "
            "--carry latents"
        )
    if request.step_cache is not None:
        raise UserError("--mesh: the step cache is for one device; leave one of both out")
    sized = config.sized(len(jax.devices()))
    transformer, geometry = source.configs["transformer"], source.geometry
    rows, columns = (
        side // (geometry.spatial * patch)
        for side, patch in zip((request.height, request.width), geometry.patch[1:], strict=True)
    )
    sides = 2 if is_guided(request.guidance_scale) else 1
    clips, over = sides * len(request.batches()[0]), sized.data * sized.fsdp
    heads = sized.tensor * (sized.context if sized.attention == "ulysses" else 1)
    wanted = {
        f"clips side by side ({' x '.join(BATCH)})": (clips, over),
        "tokens of a frame (context)": (rows * columns, sized.context),
        "heads (tensor, with ulysses x context)": (transformer.num_attention_heads, heads),
    }
    if odd := [f"{n} {name} over {d}" for name, (n, d) in wanted.items() if n % d]:
        raise UserError(f"--mesh: {', '.join(odd)} devices does not go; legal: divisors")
