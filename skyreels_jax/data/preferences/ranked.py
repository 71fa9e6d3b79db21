"""Pairs out of a model's own films: of each prompt the best against the worst."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Float, Int

from skyreels_jax.core.errors import UserError


class Ranking(NamedTuple):
    """Film numbers of the best and the worst of each prompt that is left, and the prompt's.

    dropped: how many prompts are not, because no film is better than another.
    """

    chosen: Int[np.ndarray, " M"]
    rejected: Int[np.ndarray, " M"]
    prompt: Int[np.ndarray, " M"]
    dropped: int


def best_against_worst(
    scores: Float[np.ndarray, "P N"], legal: Bool[np.ndarray, "P N N"] | None = None
) -> Ranking:
    """Returns of each of P prompts with N films the two that are furthest apart; film j of prompt i
    has number i N + j.

    legal: which films [i, j] of a prompt may stand as i against j; None: all. Of several pairs it
    takes that of the first better film, then of the first worse one.
    Raises `UserError` when no pair is left.
    """
    prompts, films = scores.shape
    apart = scores[:, :, None] - scores[:, None, :]
    if legal is not None:
        apart = np.where(legal, apart, 0)
    apart = apart.reshape(prompts, films * films)
    best, worst = np.divmod(apart.argmax(axis=1), films)
    kept = np.flatnonzero(apart.max(axis=1) > 0)
    if not len(kept):
        raise UserError(
            f"no pair is left: for each of {prompts} prompts all {films} films have the same "
            "score, or the better ones are worse in what is not motion; legal: a reward that tells "
            "films apart, a wider preferences.not_worse"
        )
    first = kept * films
    return Ranking(first + best[kept], first + worst[kept], kept, prompts - len(kept))


def not_worse(
    axes: Mapping[str, Float[np.ndarray, "P N"]], allowance: Mapping[str, float]
) -> Bool[np.ndarray, "P N N"]:
    """Returns where film i of a prompt lies below film j by no more than is allowed on any axis.

    axes: more is better.  allowance: of each axis, in its units.
    """
    enough = [
        axes[axis][:, :, None] >= axes[axis][:, None, :] - most for axis, most in allowance.items()
    ]
    return np.logical_and.reduce(enough)


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
