"""The plots of the benchmarks of long films, as PNG files that read well 830 pixels wide."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from skyreels_jax.data.toy_film import world
from skyreels_jax.evals import drift as drifts
from skyreels_jax.evals import story as stories
from skyreels_jax.evals.drift import Drift, mean_seen
from skyreels_jax.evals.schedules import Schedule
from skyreels_jax.evals.story import StoryReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; lines differ in their dashes too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), "-.")
TRUTH = "#8a8a8a"
_DPI, _WIDTH = 200, 8.3  # inches: 1660 pixels, shown at half size
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}


def plot_drift(path: pathlib.Path, settings: Sequence[Drift], truth: Drift, *, title: str) -> None:
    """Writes the curves of `settings` over the film: adherence, colour, brightness, attributes.

    truth: films of the world itself; what any change in them is, no model can do without.
    """
    with page(path, 8.8, title=title) as figure:
        grid = figure.add_gridspec(4, 4, height_ratios=(2.0, 1.6, 1.0, 1.0))
        whole = figure.add_subplot(grid[0, :])
        for drift, draw in _lines(settings, truth):
            draw(whole, np.array([a["mean"] for a in drift.adherence]))
        _shares(whole, "adherence: what every second shows of what was asked for")
        whole.set_ylabel("share of attributes right")
        figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        moved, light = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2:])
        for drift, draw in _lines(settings, truth):
            draw(moved, mean_seen(drift.colour))
            draw(light, drift.brightness.mean(0))
        moved.axhline(drifts.DRIFTED, color="black", lw=0.8)
        moved.annotate(
            f"target: less than {drifts.DRIFTED:g} %",
            (0.3, drifts.DRIFTED),
            (0, 2),
            textcoords="offset points",
            fontsize=8,
        )
        moved.set_title("subject's colour: change since the first second")
        moved.set_ylim(bottom=0)
        light.set_title("brightness: change since the first second")
        for axes in (moved, light):
            axes.set_ylabel("% of the range")
            axes.set_xlabel("second of the film")
        for index, attribute in enumerate(world.ATTRIBUTES):
            axes = figure.add_subplot(grid[2 + index // 4, index % 4])
            for drift, draw in _lines(settings, truth):
                draw(axes, np.array([a[attribute] for a in drift.adherence]))
            _shares(axes, attribute.replace("_", " "))
            axes.tick_params(labelleft=index % 4 == 0)


def plot_stories(path: pathlib.Path, reports: Sequence[StoryReport], *, title: str) -> None:
    """Writes, for each setting, single clips beside the segments of stories, by attribute."""
    with page(path, 0.9 + 2.1 * len(reports), title=title) as figure:
        for row, report in enumerate(reports):
            axes = figure.add_subplot(len(reports), 1, row + 1)
            segments = range(len(report.stories[0]))
            bars = [("single clips", report.single(), "#b5b5b5")]
            bars += [
                (f"part {i + 1}", report.adherence(i), COLOURS[i % len(COLOURS)]) for i in segments
            ]
            names, width = [*world.ATTRIBUTES, "mean"], 0.8 / len(bars)
            for index, (label, values, colour) in enumerate(bars):
                place = np.arange(len(names)) + width * (index - (len(bars) - 1) / 2)
                axes.bar(place, [values[n] for n in names], width, label=label, color=colour)
            for place, name in enumerate(names):
                least = stories.KEPT * report.single()[name]
                axes.plot([place - 0.4, place + 0.4], [least] * 2, color="black", lw=1, ls=":")
            marks = [n.replace("_", "\n") + " *" * (n in report.changes) for n in names]
            axes.set_xticks(range(len(names)), marks, fontsize=8)
            axes.grid(axis="x", visible=False)
            axes.set_ylim(0, 1.05)
            axes.set_ylabel("share right")
            axes.set_title(report.name)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            *handles,
            loc="outside lower center",
            ncols=len(bars),
            title=f"* changes from part to part; dotted: {stories.KEPT:.0%} of single clips",
        )


def plot_schedules(path: pathlib.Path, rows: Sequence[Schedule], *, title: str) -> None:
    """Writes quality and cost of each setting as bars, a panel for each number."""
    panels = (
        ("adherence\n(share right)", [r.adherence["mean"] for r in rows], "{:.2f}"),
        ("consistency\n(of 1)", [r.measure("consistency") for r in rows], "{:.2f}"),
        ("flicker\n(levels)", [r.measure("flicker") for r in rows], "{:.2f}"),
        ("computing\n(s for 1 s of film)", [r.compute for r in rows], "{:.2f}"),
        ("runs of the model\n(for 1 s of film)", [r.model_runs for r in rows], "{:.0f}"),
    )
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(rows))]
    with page(path, 1.2 + 0.4 * len(rows), title=title) as figure:
        for index, (label, values, form) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            bars = axes.barh([r.name for r in rows], values, color=colours)
            axes.bar_label(bars, [form.format(v) for v in values], padding=2, fontsize=8)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
            axes.set_xlim(0, 1.35 * max(*values, 1e-6))
            axes.set_title(label, fontsize=9)
            axes.tick_params(labelleft=index == 0, labelbottom=False)


@contextlib.contextmanager
def page(path: pathlib.Path, height: float, *, title: str) -> "Iterator[Figure]":
    """Yields a figure of the common width, style and title; it becomes the PNG file `path`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.suptitle(title, fontsize=11)
        yield figure
        figure.savefig(path, dpi=_DPI, format="png")


def _lines(settings: Sequence[Drift], truth: Drift):
    """Yields each drift, the world's first, with the function that draws one of its curves."""
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), strict=False)
    looks = [{"color": TRUTH, "lw": 3.0, "alpha": 0.5}]
    looks += [{"color": c, "ls": d, "lw": 1.6} for _, (c, d) in zip(settings, styles, strict=False)]
    for drift, look in zip((truth, *settings), looks, strict=True):

        def draw(axes: "Axes", values: np.ndarray, drift=drift, look=look) -> None:
            axes.plot(np.arange(len(values)) + 0.5, values, label=drift.name, **look)

        yield drift, draw


def _shares(axes: "Axes", title: str) -> None:
    axes.set_title(title)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlim(left=0)
