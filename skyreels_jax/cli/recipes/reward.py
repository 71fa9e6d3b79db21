"""Training the reward model on pairs of clips."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from skyreels_jax.checkpoint import restore_params
from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.data.in_order import InOrder
from skyreels_jax.data.loader import Source, pipeline
from skyreels_jax.data.preferences.preferences_dataset_builder import described
from skyreels_jax.data.preferences.records import SIDES, CutPair
from skyreels_jax.data.preferences.subsets import without
from skyreels_jax.models.reward.config import RewardConfig
from skyreels_jax.models.reward.load import (
    BATCH,
    RewardCard,
    abstract_network,
    network_scores,
    save_reward,
)
from skyreels_jax.models.reward.modeling import MatchingReward
from skyreels_jax.objectives.reward import BradleyTerry
from skyreels_jax.parallel.rules import WHOLE, Rules
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.loop import Loader

MEASURED = 512  # pairs over whose clips the scores' mean and deviation are taken


class RewardRecipe:
    """Kind "reward": `model` is a `RewardConfig`, `objective` a `BradleyTerry`; batches are those
    of `CutPair`.
    """

    def resolve(self, config: TrainConfig) -> TrainConfig:
        return dataclasses.replace(
            config,
            model=from_dict(RewardConfig, config.model),
            objective=from_dict(BradleyTerry, config.objective),
        )

    def make(
        self, config: TrainConfig, rngs: nnx.Rngs, *, mesh: Mesh | None = None
    ) -> MatchingReward:
        del mesh  # it needs to know nothing of it
        return MatchingReward(config.model, rngs=rngs)

    def rules(self, config: TrainConfig) -> Rules:
        return WHOLE

    def loader(self, config: TrainConfig) -> Loader:
        config.data.check_read("reward", ("pairs", "split", "left_out"))
        source = pairs(config)
        have, *size = source[0]["chosen"].shape[:3]
        for stage in config.stages:
            if stage.size:
                raise UserError("stages of reward keep the whole picture: leave size out")
            if stage.frames > have:
                raise UserError(f"a stage wants {stage.frames} of {have} frames")
            config.model.check(stage.frames or have, *size)

        split = config.data.split
        order = {folder: described(folder, split=split) for folder in folders(config)}

        def open_stage(stage, index, rows):
            cut, seed = CutPair(frames=stage.frames), config.seed + index
            found = pipeline(source, cut, batch=stage.batch, seed=seed, rows=rows)
            return InOrder(batches=found, order=order, needs="the sets of pairs as they were")

        return open_stage

    def flops(self, config: TrainConfig, params: Params) -> None:
        return None

    def export(self, config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
        """Writes config.json and model.safetensors into `folder`, with the mean and deviation of
        the scores of the clips that it was trained on.
        """
        like = abstract_network(config.model)[1]
        params = restore_params(config.out, like)
        stored = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype).astype(jnp.float32), params)
        mean, deviation = score_statistics(config, stored)
        card = RewardCard(
            network=config.model,
            mean=mean,
            deviation=deviation,
            k=config.objective.k,
            left_out=config.data.left_out,
        )
        save_reward(folder, card, params, dtype=jnp.dtype(dtype))


def pairs(config: TrainConfig) -> Source:
    """Returns the pairs of a run; raises `UserError` where there are none."""
    if not config.data.pairs:
        raise UserError("data.pairs: name a set of pairs; `skyreels-jax data pairs` makes one")
    return without(folders(config), config.data.left_out, split=config.data.split)


def folders(config: TrainConfig) -> list[str]:
    """Returns the sets of pairs of a run."""
    return config.data.pairs.split(",")


def score_statistics(config: TrainConfig, params: Params) -> tuple[float, float]:
    """Returns mean and deviation of the scores of both clips of pairs from all over the set."""
    source, graphdef = pairs(config), abstract_network(config.model)[0]
    count = most_frames(config)
    picks = np.unique(np.linspace(0, len(source) - 1, min(MEASURED, len(source))).astype(int))
    found = []
    for rows in tqdm(np.array_split(picks, -(-len(picks) * 2 // BATCH)), desc="score statistics"):
        records = [source[int(i)] for i in rows]
        films = np.stack([record[side][:count] for record in records for side in SIDES])
        found.append(network_scores(graphdef, params, films))
    scores = np.concatenate(found).astype(np.float64)
    return float(scores.mean()), float(scores.std())


def most_frames(config: TrainConfig) -> int:
    """Returns how many frames the longest clips of a run have."""
    whole = any(not stage.frames for stage in config.stages)
    return config.model.num_frames if whole else max(stage.frames for stage in config.stages)
