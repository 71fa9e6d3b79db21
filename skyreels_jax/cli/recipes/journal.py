"""The journal of a run in stages: what each finished stage measured, and with which config."""

import json
import pathlib
import sys
from typing import Any

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import write_json
from skyreels_jax.training import resume
from skyreels_jax.training.preferences import FlowDPOConfig

Row = dict[str, Any]
FILE, STOPPED = "stages.json", "stopped"
# After a change of these, stages would not follow from each other, or not compare.
_FIXED = ("kind", "seed", "model", "lora", "start", "objective.name", "data.num_frames")
_FIXED += ("preferences.reward", "preferences.films", "preferences.guards.films")


def read_journal(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the {"config", "stages"} of the run in `folder`; None where there is none.

    Raises `UserError` for a file that is no journal.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["config"] and saved["stages"]:
            return saved
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{path} is no journal of stages; give another --out, or put back the file")


class Journal:
    """`rows`, one a finished stage, in `folder`/stages.json; row 0 is the start model's.

    Raises `UserError` where the stages there were made with a config that is not `config` in a
    field that all stages must share; says what else is another now.
    """

    def __init__(self, folder: pathlib.Path, config: FlowDPOConfig):
        self.path, self.config = folder / FILE, config
        self.rows: list[Row] = []
        if (saved := read_journal(folder)) is None:
            return
        self.rows = saved["stages"]
        last = self.rows[-1]["stage"]
        changed = resume.differences(saved["config"], config)
        if fixed := [line for name, line in changed.items() if resume.among(name, _FIXED)]:
            raise UserError(
                f"{', '.join(fixed)}: not in a run that has finished stage {last}; "
                "give another --out"
            )
        for line in changed.values():
            print(f"going on from stage {last} with {line}", file=sys.stderr)

    @property
    def stopped(self) -> str:
        """Why the run ended early, or nothing."""
        return self.rows[-1][STOPPED] if self.rows else ""

    @property
    def good(self) -> int:
        """The last stage that was no reason to stop; 0: the start model."""
        return max((row["stage"] for row in self.rows if not row[STOPPED]), default=0)

    def add(self, row: Row) -> None:
        """Adds the row of a finished stage."""
        self.rows.append(row)
        write_json(self.path, {"config": to_dict(self.config), "stages": self.rows})

    def table(self) -> str:
        """Returns the rows as text."""
        names = list(dict.fromkeys(name for row in self.rows for name in row if name != STOPPED))
        lines = [list(names)]
        for row in self.rows:
            values = [row.get(name) for name in names]
            lines.append(["-" if v is None else f"{v:.4g}" for v in values])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) for line in lines
        )
