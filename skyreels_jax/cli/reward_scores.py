"""Scores of pairs, of twins and of a model's own films, for `evaluate --benchmark reward`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from skyreels_jax.data.loader import Source
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.evals.reward import ScoredPairs, Strengths
    from skyreels_jax.models.reward.load import LoadedReward
    from skyreels_jax.pipelines.source import ModelSource
    from skyreels_jax.pipelines.validate import Request

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # 0: the clip itself
CLEAR = 0.1  # of 1: by how much the judge's motion scores must differ
Progress = Callable[[int], Any]  # called with the number of films that were scored


def scored(
    model: "LoadedReward", source: "Source", progress: Progress
) -> "tuple[ScoredPairs, list[dict[str, Any]]]":
    """Returns all pairs of `source`, scored, and what is said of each of them."""
    import jax.numpy as jnp

    from skyreels_jax.core.labels import LABELS
    from skyreels_jax.data.preferences.records import SIDES
    from skyreels_jax.evals.reward import ScoredPairs
    from skyreels_jax.models.reward.load import BATCH
    from skyreels_jax.objectives.reward import log_probabilities

    rows: list[dict[str, Any]] = []
    parts = [np.zeros((0, 2), np.float32)]
    for start in range(0, len(source), BATCH // 2):
        some = [source[i] for i in range(start, min(start + BATCH // 2, len(source)))]
        found = model.score(np.stack([record[side] for record in some for side in SIDES]))
        parts.append(found.reshape(-1, 2))
        for record, both in zip(some, parts[-1].tolist(), strict=True):
            row = {"id": record["id"].decode(), "kind": record["source"].decode()}
            row |= {"strength": float(record["strength"]), "label": LABELS[int(record["label"])]}
            rows.append(row | {s: round(score, 4) for s, score in zip(SIDES, both, strict=True)})
        progress(2 * len(some))
    chosen, rejected = np.concatenate(parts).astype(np.float64).T
    # Probabilities are of the network's own scores.
    apart = jnp.asarray((chosen - rejected) * model.card.deviation, jnp.float32)
    log_p = log_probabilities(apart, k=model.card.k)
    pairs = ScoredPairs(
        kinds=tuple(row["kind"] for row in rows),
        labels=np.array([LABELS.index(row["label"]) for row in rows]),
        chosen=chosen,
        rejected=rejected,
        probabilities=np.exp(np.asarray(log_p, np.float64)),
    )
    return pairs, rows


def by_strength(
    model: "LoadedReward",
    scenes: "Sequence[Scene]",
    num_frames: int,
    seed: int,
    progress: Progress,
) -> "Strengths":
    """Returns the scores of a clip of each scene and of its twins, of all kinds and strengths."""
    from skyreels_jax.data.preferences.distortions import DISTORTIONS, distort
    from skyreels_jax.data.toy_film.render import render
    from skyreels_jax.evals.reward import Strengths

    table = np.full((len(DISTORTIONS), len(scenes), len(STRENGTHS)), np.nan)
    for place, scene in enumerate(scenes):
        clip = render(scene, num_frames)
        films, cells = [clip], []
        for row, kind in enumerate(DISTORTIONS):
            for column, strength in enumerate(STRENGTHS[1:], 1):
                twin = distort(kind, clip, strength=strength, seed=seed + place)
                if not np.array_equal(twin, clip):
                    films.append(twin)
                    cells.append((row, column))
        scores = model.score(np.stack(films))
        table[:, place, 0] = scores[0]
        for (row, column), score in zip(cells, scores[1:], strict=True):
            table[row, place, column] = score
        progress(len(DISTORTIONS) * (len(STRENGTHS) - 1) + 1)
    return Strengths(strengths=STRENGTHS, scores=dict(zip(DISTORTIONS, table, strict=True)))


def on_films(
    asked: "tuple[ModelSource, Request]",
    model: "LoadedReward",
    scenes: "Sequence[Scene]",
    progress: Progress,
) -> dict[str, Any]:
    """Makes the films of a checked request, and returns how far reward and judge agree on them."""
    from skyreels_jax.evals.axes import score_axes
    from skyreels_jax.evals.reward import agreement

    source, request = asked
    each = len(request.prompts) // len(scenes)
    films, motion = [], []
    for i, film in enumerate(source.load(dtype=request.dtype).films(request)):
        films.append(film.frames)
        motion.append(score_axes(film.frames, scenes[i // each])["motion"])
        progress(1)
    scores = model.score(np.stack(films)).astype(np.float64)
    table = (np.asarray(column).reshape(len(scenes), each) for column in (scores, motion))
    return {"model": source.model_id, **agreement(*table, least=CLEAR)}
