"""Pairs out of a model's own films: of each prompt the best against the worst."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float, Int

from skyreels_jax.core.errors import UserError


class Ranking(NamedTuple):
    """Film numbers of the best and the worst of each prompt that is left, and the prompt's.

    dropped: how many prompts are not, because all their films have the same score.
    """

    chosen: Int[np.ndarray, " M"]
    rejected: Int[np.ndarray, " M"]
    prompt: Int[np.ndarray, " M"]
    dropped: int


def best_against_worst(scores: Float[np.ndarray, "P N"]) -> Ranking:
    """Returns the pairs of P prompts with N films each; film j of prompt i has number i N + j.

    Of several best or worst films it takes the first.
    Raises `UserError` when no pair is left.
    """
    prompts, films = scores.shape
    best, worst = scores.argmax(axis=1), scores.argmin(axis=1)
    kept = np.flatnonzero(scores.max(axis=1) > scores.min(axis=1))
    if not len(kept):
        raise UserError(
            f"no pair is left: for each of {prompts} prompts all {films} films have the same "
            "score; legal: a reward that tells films apart"
        )
    first = kept * films
    return Ranking(first + best[kept], first + worst[kept], kept, prompts - len(kept))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RankedPairs:
    """Random access to the pairs of a ranking: {"chosen", "rejected": f16 [T, H, W, C],
    "input_ids" [S], "length" []}.

    latents: of all films. captions: {"input_ids" [P, S], "length" [P]} of all prompts.
    """

    latents: Float[np.ndarray, "N T H W C"]
    captions: Mapping[str, np.ndarray]
    ranking: Ranking

    def __len__(self) -> int:
        return len(self.ranking.prompt)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        prompt = self.ranking.prompt[index]
        sides = {
            "chosen": self.latents[self.ranking.chosen[index]],
            "rejected": self.latents[self.ranking.rejected[index]],
        }
        told = {name: values[prompt] for name, values in self.captions.items()}
        return {name: np.asarray(value) for name, value in (sides | told).items()}


@dataclasses.dataclass(frozen=True)
class ToldPair(grain.transforms.RandomMap):
    """Turns a ranked pair into a sample of `FlowDPO`: whole films (they "start" at latent 0, and of
    none is any latent "given"), so that nothing is drawn.
    """

    null_cond: Mapping[str, np.ndarray]

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        del rng
        return {
            "chosen": element["chosen"].astype(np.float32),
            "rejected": element["rejected"].astype(np.float32),
            "start": np.int32(0),
            "given": np.int32(0),
            "cond": {name: element[name] for name in ("input_ids", "length")},
            "null_cond": dict(self.null_cond),
        }
