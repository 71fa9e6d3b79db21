"""Reward models as folders: config.json and model.safetensors, and what loads them."""

import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8

from skyreels_jax.core.config import from_dict, suggest, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.models.layout import MAX_SHARD_BYTES, read_json, write_json
from skyreels_jax.models.reward.config import RewardConfig
from skyreels_jax.models.reward.matching import mirrored
from skyreels_jax.models.reward.modeling import MatchingReward, look
from skyreels_jax.models.reward.weights import native_table
from skyreels_jax.weights.convert import load_tree
from skyreels_jax.weights.export import export_params
from skyreels_jax.weights.params import TreeParams
from skyreels_jax.weights.reader import open_source
from skyreels_jax.weights.writer import write_safetensors

Films = UInt8[np.ndarray, "B T H W 3"]
Scores = Float32[np.ndarray, " B"]
ARCHITECTURES = ("matching",)
BATCH = 16  # films scored at once, fewer filled up: one compiled program


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardCard:
    """config.json of a reward model.

    architecture: of `network`. mean, deviation: of the network's scores of the clips it was trained
    on. k: of the objective, which turns differences of the network's scores into probabilities.
    left_out: kinds of pairs that it was not trained on (leave-one-out).
    """

    architecture: Literal["matching"] = "matching"
    network: RewardConfig
    mean: float
    deviation: float
    k: float = 5.0
    left_out: tuple[str, ...] = ()

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation > 0):
            raise UserError(
                "a reward model's mean must be a number and its deviation more than 0, got "
                f"{self.mean:g}, {self.deviation:g}"
            )


class LoadedReward:
    """A `RewardModel`: scores are the network's, of a film and its mirror images, less `card.mean`,
    by `card.deviation`.

    fingerprint: of everything that scores hang on, weights and configuration.
    """

    def __init__(self, card: RewardCard, params: Params, *, fingerprint: str):
        self.card, self.fingerprint = card, fingerprint
        self._params = params
        self._graphdef = abstract_network(card.network)[0]

    def score(self, videos: Films) -> Scores:
        """See `RewardModel.score`; a film's score does not hang on what it is scored with."""
        self.card.network.check(*videos.shape[1:4])
        found = network_scores(self._graphdef, self._params, videos)
        return (found - np.float32(self.card.mean)) / np.float32(self.card.deviation)


def network_scores(graphdef: nnx.GraphDef, params: Params, videos: Films) -> Scores:
    """Returns the scores before normalisation, `BATCH` films at a time. Mirror images of a film
    have its score: training mirrors at random, and the mean is nearer to the truth (docs/log.md).
    """
    parts = [np.zeros(0, np.float32)]
    for start in range(0, len(videos), BATCH):
        films = videos[start : start + BATCH]
        filled = np.pad(films, ((0, BATCH - len(films)),) + ((0, 0),) * 4)
        parts.append(np.asarray(_forward(graphdef, params, filled))[: len(films)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef: nnx.GraphDef, params: Params, videos: Any) -> jax.Array:
    """Returns the mean score of films and of their mirror images: what moves well still does."""
    model = nnx.merge(graphdef, params)
    seen = look(videos.astype(jnp.float32) / 127.5 - 1.0, model.config)
    for axis in (2, 3):
        seen = jnp.concatenate([seen, mirrored(seen, axis)])
    return model.score(seen).reshape(-1, len(videos)).mean(axis=0)


def abstract_network(config: RewardConfig) -> tuple[nnx.GraphDef, Params]:
    """Returns structure and parameter shapes; takes no memory."""
    model = nnx.eval_shape(lambda: MatchingReward(config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def save_reward(
    folder: str | pathlib.Path, card: RewardCard, params: Params, *, dtype: Any = None
) -> None:
    """Writes a reward model into `folder`; `dtype` is the type of the stored tensors (None: as
    they are).
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = native_table(abstract_network(card.network)[1])
    tensors = export_params(table, TreeParams(params), params, dtype=dtype)
    write_safetensors(folder, tensors, max_shard_bytes=MAX_SHARD_BYTES, basename="model")
    write_json(folder / "config.json", to_dict(card))


def load_reward(folder: str | pathlib.Path) -> LoadedReward:
    """Returns the reward model in `folder`, or in the "export" of the run there; float32.

    Raises `UserError` for a folder without one, one of an architecture that is not known, and for
    weights that are not those of its configuration.
    """
    folder = pathlib.Path(folder)
    if (folder / "export" / "config.json").is_file():
        folder = folder / "export"
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no reward model (config.json); train configs/toy/reward.py first"
        )
    values = read_json(folder / "config.json")
    named = str(values.get("architecture"))
    if named not in ARCHITECTURES:
        raise UserError(
            f"{folder} holds no reward model of a known architecture, but {named!r}"
            f"{suggest(named, ARCHITECTURES)}"
        )
    try:
        card = from_dict(RewardCard, values)
    except UserError as error:
        raise UserError(f"{folder}/config.json: {error}") from None
    graphdef, abstract = abstract_network(card.network)
    source = open_source(folder)
    params = load_tree(native_table(abstract), source, abstract, dtype=jnp.float32)
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return LoadedReward(card, params, fingerprint=digest.hexdigest()[:32])
