"""The plots of `skyreels-jax report`: losses of runs, the judge's scores after them."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from skyreels_jax.evals.plots import COLOURS, page

Curve = tuple[Sequence[int], Sequence[float]]  # steps, losses
_COLUMNS = 3
_FAR = 4.0  # as a ratio; below it a linear axis looks the same and has rounder numbers


def plot_losses(path: pathlib.Path, curves: Mapping[str, Curve]) -> None:
    """Writes a panel for each run: its loss by step, on a logarithmic axis where it falls far."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    rows = -(-len(curves) // _COLUMNS)
    with page(path, 0.7 + 2.2 * rows, title="Loss by step") as figure:
        for index, (name, (steps, losses)) in enumerate(curves.items()):
            axes = figure.add_subplot(rows, _COLUMNS, index + 1)
            axes.plot(steps, losses, color=COLOURS[0], lw=1.2)
            if min(losses) > 0 and max(losses) > _FAR * min(losses):
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_title(name)
            axes.set_xlabel("step")


def plot_scores(path: pathlib.Path, scores: Mapping[str, Mapping[str, float | None]]) -> None:
    """Writes a bar for each run and attribute: the share of films that show what was asked for.

    scores: shares by attribute, of each run.
    """
    attributes = list(next(iter(scores.values())))
    width = 0.8 / len(scores)
    with page(path, 3.6, title="What films show of what was asked for") as figure:
        axes = figure.add_subplot()
        for index, (name, shares) in enumerate(scores.items()):
            places = np.arange(len(attributes)) + (index + 0.5) * width - 0.4
            values = [np.nan if shares[one] is None else shares[one] for one in attributes]
            colour = COLOURS[index % len(COLOURS)]
            axes.bar(places, values, width * 0.9, color=colour, label=name)
        axes.set_xticks(range(len(attributes)), [one.replace("_", "\n") for one in attributes])
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("share of films")
        axes.grid(axis="x", visible=False)
        figure.legend(loc="outside lower center", ncols=4)
