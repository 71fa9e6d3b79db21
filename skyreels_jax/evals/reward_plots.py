"""The plot of the reward benchmark: ROC, calibration, score by strength, accuracy by kind."""

import itertools
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skyreels_jax.evals.plots import COLOURS, DASHES, TRUTH, page
from skyreels_jax.evals.ranks import roc_area, roc_curve
from skyreels_jax.evals.reward import BINS, ScoredPairs, Strengths, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_reward(
    path: pathlib.Path,
    pairs: ScoredPairs,
    strengths: Strengths,
    left_out: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
) -> None:
    """Writes four panels.

    left_out: for each kind the summary of a model that was not trained on it.
    """
    kinds = sorted({*pairs.kinds, *strengths.scores})
    styles = dict(zip(kinds, _styles(), strict=False))
    with page(path, 8.6, title=title) as figure:
        grid = figure.add_gridspec(2, 2)
        _roc(figure.add_subplot(grid[0, 0]), pairs, styles)
        _calibration(figure.add_subplot(grid[0, 1]), pairs)
        _strengths(figure.add_subplot(grid[1, 0]), strengths, styles)
        _accuracies(figure.add_subplot(grid[1, 1]), pairs, left_out)
        handles = [
            figure.axes[2].plot([], [], label=kind.replace("_", " "), **style)[0]
            for kind, style in styles.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _styles():
    looks = itertools.product(DASHES, COLOURS)
    return ({"color": colour, "ls": dash, "lw": 1.4} for dash, colour in looks)


def _roc(axes: "Axes", pairs: ScoredPairs, styles: Mapping[str, Any]) -> None:
    for kind in sorted(set(pairs.kinds)):
        better, worse = pairs.of(kind).sides()
        if len(better):
            axes.plot(*roc_curve(better, worse), **styles[kind])
    better, worse = pairs.sides()
    if len(better):
        axes.plot(*roc_curve(better, worse), color=TRUTH, lw=3.0, alpha=0.6)
        area = f"all kinds (grey): area {roc_area(better, worse):.3f}"
        axes.annotate(area, (0.98, 0.04), xycoords="axes fraction", ha="right")
    axes.set_title("ROC: a clip alone, better or worse side of its pair")
    axes.set_xlabel("worse clips taken for good")
    axes.set_ylabel("better clips taken for good")


def _calibration(axes: "Axes", pairs: ScoredPairs) -> None:
    told = {
        "the better of two, no tie": reliability(pairs.confidence(), pairs.right()),
        "better, worse or tie": reliability(
            pairs.probabilities.max(axis=1), pairs.likeliest_right()
        ),
    }
    axes.plot([0, 1], [0, 1], color=TRUTH, lw=1.0)
    for (name, rows), colour, dash in zip(told.items(), COLOURS, DASHES, strict=False):
        points = [(row["confidence"], row["right"]) for row in rows]
        axes.plot(*np.array(points).reshape(-1, 2).T, "o", ls=dash, color=colour, label=name)
    axes.set_xlim(0.3, 1.02)
    axes.set_ylim(-0.03, 1.03)
    axes.set_title(f"calibration, {BINS} bins")
    axes.set_xlabel("probability of what is taken for right")
    axes.set_ylabel("share that is right")
    axes.legend(loc="upper left")


def _strengths(axes: "Axes", strengths: Strengths, styles: Mapping[str, Any]) -> None:
    for kind in strengths.scores:
        axes.plot(strengths.strengths, strengths.means(kind), **styles[kind])
    axes.plot(strengths.strengths, strengths.all_kinds(), color=TRUTH, lw=3.0, alpha=0.6)
    axes.set_title("score by strength of the distortion (grey: mean)")
    axes.set_xlabel("strength (0: the clip itself)")
    axes.set_ylabel("score, standard deviations")


def _accuracies(
    axes: "Axes", pairs: ScoredPairs, left_out: Mapping[str, Mapping[str, Any]]
) -> None:
    kinds = sorted({*pairs.kinds, *left_out})
    trained = [pairs.of(kind).right() for kind in kinds]
    shares = [hits.mean() if len(hits) else 0.0 for hits in trained]
    place = np.arange(len(kinds))
    axes.barh(place, shares, 0.7, color=COLOURS[0], label="all kinds trained on")
    unseen = [left_out.get(kind, {}).get("accuracy_decisive") for kind in kinds]
    points = [(value, spot) for value, spot in zip(unseen, place, strict=True) if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "D", color=COLOURS[1], label="without that kind")
    axes.axvline(0.5, color="black", lw=0.8, ls=":")
    axes.set_yticks(place, [kind.replace("_", " ") for kind in kinds], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_title("pairs the right way round")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=2, fontsize=8)
