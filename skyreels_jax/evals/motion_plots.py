"""The plot of the motion benchmark: bars with intervals, a panel for each number."""

import math
import pathlib
from collections.abc import Sequence

from skyreels_jax.evals.motion_report import KEPT, NAMES, MotionReport, change, shown, title, unit
from skyreels_jax.evals.plots import COLOURS, page

_COLUMNS = 4


def plot_motion(path: pathlib.Path, settings: Sequence[MotionReport], *, headline: str) -> None:
    """Writes a bar for each setting, with its 95 % interval and how far it is from the first."""
    first, names = settings[0], [setting.name for setting in settings]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(settings))]
    with page(path, 3.0 + 0.6 * len(settings), title=headline) as figure:
        for index, name in enumerate(NAMES):
            axes = figure.add_subplot(2, _COLUMNS, index + 1)
            found = [setting.estimate(name) for setting in settings]
            values = [one.value for one in found]
            around = [
                [max(one.value - one.low, 0) for one in found],
                [max(one.high - one.value, 0) for one in found],
            ]
            axes.barh(names, values, 0.45, color=colours)
            axes.errorbar(values, names, xerr=around, fmt="none", ecolor="black", capsize=3, lw=1)
            for place, (setting, one) in enumerate(zip(settings, found, strict=True)):
                told = shown(name, one.value)
                changed = change(first, setting, name).value
                if setting is not first and not math.isnan(changed):
                    told += f"  {changed:+.1f} {unit(name)}"
                above = (0, place - 0.225)
                axes.annotate(told, above, (3, 2), textcoords="offset points", fontsize=8)
            axes.set_ylim(len(settings) - 0.6, -0.75)
            axes.set_xlim(left=0)
            axes.grid(axis="y", visible=False)
            better = "more" if name in KEPT else "less"
            axes.set_title(f"{title(name)}\n({better} is better)", fontsize=9)
            axes.tick_params(labelleft=index % _COLUMNS == 0)
