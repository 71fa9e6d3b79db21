"""The parameters that a training run ended with, to be read one by one."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from skyreels_jax.checkpoint import CheckpointParams
from skyreels_jax.core.tree import matched, path_name
from skyreels_jax.core.types import Params
from skyreels_jax.models import layout
from skyreels_jax.models.dit.fps import NAME, fold_fps, tells_fps
from skyreels_jax.models.kinds import in_float32
from skyreels_jax.nn.whole import put_together
from skyreels_jax.pipelines.lora import PART
from skyreels_jax.pipelines.source import FLOAT32, ModelSource, Modules, Places
from skyreels_jax.weights.merge import Adapter, MergedParams
from skyreels_jax.weights.params import Index, ParamSource


def whole_params(
    checkpoint: pathlib.Path, configs: Mapping[str, Any], weights: str | None
) -> dict[str, ParamSource]:
    """Returns the parameters in `checkpoint` of a run that trained whole models.

    configs: of the models. weights: as in `CheckpointParams`, which says what it raises.
    Raises `UserError` as well where it holds another model.
    """
    stored = CheckpointParams(checkpoint, weights=weights)
    like = {name: layout.abstract_model(name, config)[1] for name, config in configs.items()}
    matched(stored.leaves, like, of=f"the checkpoint {checkpoint}")
    return {name: stored.within(name) for name in configs}


def adapted_params(
    base: ModelSource, configs: Mapping[str, Any], adapter: Adapter, *, fps: int
) -> dict[str, ParamSource]:
    """Returns those of models like `configs`: what there is in `base` with `adapter` in it.

    fps: the frame rate of the run, if `base` is told frame rates and `configs` are not.
    Raises `UserError` where `base` holds another model.
    """
    like = {name: layout.abstract_model(name, config)[1] for name, config in configs.items()}
    held = {name: layout.abstract_model(name, base.configs[name])[1] for name in configs}
    params = base.params(None)
    if tells_fps(held[PART]) and not tells_fps(like[PART]):  # as the run did
        params[PART] = _folded(params[PART], held[PART], fps)
        del held[PART][NAME]
    matched(held, like, of=base.model_id)
    params[PART] = MergedParams(params[PART], adapter)
    return {name: params[name] for name in configs}


def load_params(
    source: ParamSource,
    abstract: Params,
    dtype: Any,
    *,
    shardings: Mapping[str, Sharding] | None = None,
) -> Params:
    """Returns all leaves of a model like `abstract` as arrays of `dtype` (float32: `in_float32`).

    shardings: as in `load_tree`; a leaf is whole before it is divided.
    """

    def load(path: tuple, _: Any) -> jax.Array:
        name = path_name(path)
        leaf = source.read(name).astype("float32" if in_float32(name) else dtype, copy=False)
        if shardings is None:
            return jax.device_put(leaf)
        return jax.make_array_from_callback(leaf.shape, shardings[name], leaf.__getitem__)

    return jax.tree_util.tree_map_with_path(load, abstract)


def read_modules(
    params: Mapping[str, ParamSource],
    configs: Mapping[str, Any],
    dtype: str,
    names: Collection[str],
    places: Places,
) -> Modules:
    """Returns the components in `names` with their weights, as `ModelSource.read` does."""
    modules = {}
    for name in (name for name in configs if name in names):
        graphdef, abstract = layout.abstract_model(name, configs[name])
        own = "float32" if name in FLOAT32 else dtype
        leaves = load_params(params[name], abstract, own, shardings=places.get(name))
        modules[name] = put_together(graphdef, leaves)
    return modules


class _Replaced:
    """A `ParamSource`: some leaves are those given, the others those of `base`."""

    def __init__(self, base: ParamSource, leaves: Mapping[str, np.ndarray]):
        self.name, self._base, self._leaves = base.name, base, leaves

    def dtype(self, path: str, index: Index = ()) -> np.dtype:
        return self._base.dtype(path, index)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        own = self._leaves.get(path)
        return self._base.read(path, index) if own is None else np.asarray(own[index])


def _folded(base: ParamSource, abstract: Params, fps: int) -> ParamSource:
    """Returns `base` without its embedding of frame rates: see `fold_fps`."""
    told = {NAME: abstract[NAME], "time_proj": {"bias": abstract["time_proj"]["bias"]}}
    bias = fold_fps(load_params(base, told, jnp.float32), fps)["time_proj"]["bias"]
    return _Replaced(base, {"time_proj/bias": np.asarray(bias)})
