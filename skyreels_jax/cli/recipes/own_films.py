"""A model's own films: made by the pipeline, scored, kept as latents."""

import dataclasses
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.film_store import FilmStore
from skyreels_jax.data.toy_film.world import Scene
from skyreels_jax.evals.axes import AXES, score_axes
from skyreels_jax.models.reward.protocol import RewardModel
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.source import ModelSource
from skyreels_jax.pipelines.validate import Request

Videos = UInt8[np.ndarray, "B T H W 3"]
Scores = Mapping[str, Float[np.ndarray, " B"]]
Score = Callable[[Videos, Sequence[int]], Scores]  # films and their numbers -> columns
REWARD = "reward"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """Films to make: `each` of every prompt; film number n is of prompt n // each.

    seeds: from what the noise of film n is drawn, together with n.
    options: of all films, as for `VideoModel.generate`.
    """

    prompts: Sequence[str]
    each: int
    seeds: tuple[int, int]
    batch: int
    options: Mapping[str, int | float | None]

    def __len__(self) -> int:
        return len(self.prompts) * self.each

    def request(self, source: ModelSource, films: Sequence[int]) -> Request:
        """Returns the checked request of some films, denoised side by side.

        Raises `UserError` for options that the model cannot fulfil in one window.
        """
        request = source.request(
            prompt=[self.prompts[film // self.each] for film in films],
            seed=[seed_of(*self.seeds, film) for film in films],
            batch_size=len(films),
            **self.options,
        )
        if request.film.count != 1:
            raise UserError(
                f"films of {request.num_frames} frames are more than one window of "
                f"{source.model_id}; legal: at most {request.film.base_num_frames}"
            )
        return request


def seed_of(*numbers: int) -> int:
    """Returns a seed for films that hangs on all of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def make_films(
    folder: pathlib.Path,
    source: ModelSource,
    order: Order,
    score: Score,
    *,
    scores: Sequence[str],
    expected: str,
    title: str,
) -> FilmStore:
    """Returns the films of `order` in `folder`, after making those that are missing.

    scores: the columns that `score` gives.  expected: names all that the films hang on.
    """
    store = FilmStore(folder, films=len(order), scores=scores, expected=expected)
    if store.done == store.films:
        return store
    order.request(source, [0] * order.batch)  # whatever is wrong is said before weights are read
    model = source.load()

    def make(films: Sequence[int]) -> tuple[np.ndarray, Scores]:
        kept: list[np.ndarray] = []
        made = list(model.films(order.request(source, films), keep=kept.append))
        (latents,) = kept
        return latents, score(np.stack([film.frames for film in made]), films)

    store.fill(make, batch=order.batch, title=title)
    return store


def rewards(reward: RewardModel, videos: Videos) -> Float[np.ndarray, " B"]:
    """Returns what `reward` says of films; `UserError` unless that is one number a film."""
    scores = np.asarray(reward.score(videos), np.float32)
    if scores.shape != (len(videos),):
        raise UserError(
            f"the reward gave scores of shape {list(scores.shape)} for {len(videos)} films; "
            "legal: one number a film"
        )
    return scores


def by_reward(reward: RewardModel) -> Score:
    """Returns what scores films by the reward alone."""
    return lambda videos, _: {REWARD: rewards(reward, videos)}


def judged(reward: RewardModel, scenes: Sequence[Scene]) -> Score:
    """Returns what scores film n, of scene n, by the reward and, on all axes, by the judge."""

    def score(videos: Videos, films: Sequence[int]) -> Scores:
        rows = [score_axes(video, scenes[film]) for video, film in zip(videos, films, strict=True)]
        axes = {axis: np.asarray([row[axis] for row in rows]) for axis in AXES}
        return {REWARD: rewards(reward, videos), **axes}

    return score


def open_reward(name: str) -> RewardModel:
    """Returns what `NAME(PLACE)` of a Python module gives for "MODULE:NAME PLACE", PLACE being the
    folder or file of a trained reward model; `NAME()` for "MODULE:NAME".

    Raises `UserError` where there is no such thing, or it cannot score films.
    """
    spec, *place = name.split(maxsplit=1) or [""]
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise UserError(f"preferences.reward {name!r} is not like 'package.module:Name [PLACE]'")
    try:
        make = getattr(importlib.import_module(module), attribute)
        inspect.signature(make).bind(*place)
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"preferences.reward {name!r}: {error}") from None
    reward = make(*place)
    if not isinstance(reward, RewardModel):
        raise UserError(
            f"preferences.reward {name!r} has no score(videos); legal: a RewardModel "
            "(skyreels_jax/models/reward/protocol.py)"
        )
    return reward


def reward_state(name: str) -> str:
    """Returns what tells a reward from others: `name`, and at its place, if any, the weights and
    the configuration, of which the scale of scores is a part."""
    _, _, place = name.partition(" ")
    found = pathlib.Path(place.strip()).rglob("*") if place else ()
    files = sorted(path for path in found if path.suffix in (".safetensors", ".json"))
    return f"{name} {weights_state(files).hex()}"
