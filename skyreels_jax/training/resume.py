"""What may change between two parts of one run, and what may not."""

import bisect
import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.training.config import (
    DataConfig,
    OptimizerConfig,
    PolicyConfig,
    StageConfig,
    TrainConfig,
)

# After a change of these, randomness or the order of the data would break off in mid-run.
_FIXED = ("kind", "seed", "accumulate", "model", "lora")
_FIXED += ("data.split", "data.clips", "data.num_frames", "data.captions")
_FIXED += ("data.turns", "data.faults", "data.rates", "data.fps", "data.balance")
_FIXED += ("data.pairs", "data.left_out", "data.features", "data.images")


def changes(saved: Mapping[str, Any], config: TrainConfig, step: int) -> list[str]:
    """Returns "field: old -> new" of each field in which `config` differs from `saved`, the one
    that the checkpoint of `step` was written with.

    Raises `UserError` for a change after which the run would be neither the old one nor a new one:
    a field of `_FIXED`, what adapters are trained upon, a stage before `step`, the shape of the
    stage in which `step` lies, or an end of it that lies before `step`.
    """
    lines = differences(saved, config)
    fields = _FIXED if config.lora is None else (*_FIXED, "start")  # adapters are nothing alone
    fixed = [name for name in lines if among(name, fields)]
    fixed += _past_stages(list(lines), saved["stages"], step)
    if "kind" in lines:  # then all else is as different
        fixed = ["kind"]
    if fixed:
        listed = ", ".join(lines[name] for name in fixed)
        raise UserError(f"{listed}: not in a run that is at step {step}; give another --out")
    _check_length(saved["stages"], config, step)
    return list(lines.values())


def differences(saved: Mapping[str, Any], config: TrainConfig) -> dict[str, str]:
    """Returns {field: "field: old -> new"} of each field in which `config` is not `saved`."""
    saved = _of_today(saved, type(config))
    old, new = (_flat(json.loads(json.dumps(values))) for values in (saved, to_dict(config)))
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return {name: f"{name}: {old.get(name)} -> {new.get(name)}" for name in differing}


def among(name: str, fields: Iterable[str]) -> bool:
    """Returns whether the field `name` is one of `fields` or a part of one."""
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def _of_today(saved: Mapping[str, Any], cls: type[TrainConfig]) -> dict[str, Any]:
    """Returns a saved config in the fields of today; one that there was not yet had its default."""
    given = [field for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING]
    optimizer = dict(saved["optimizer"])
    # There were tables of their own for what policies say now; frozen came before all else.
    policies = [PolicyConfig(paths=p, frozen=True) for p in optimizer.pop("frozen", ())]
    policies += [PolicyConfig(paths=p, adam=True) for p in optimizer.pop("adam_paths", ())]
    stage = to_dict(StageConfig(steps=0, batch=1))
    return {
        **{field.name: to_dict(field.default) for field in given},
        **saved,
        "stages": [{**stage, **one} for one in saved["stages"]],
        "data": {**to_dict(DataConfig()), **saved["data"]},
        "optimizer": {**to_dict(OptimizerConfig(policies=tuple(policies))), **optimizer},
    }


def _past_stages(differing: list[str], stages: list[dict], step: int) -> list[str]:
    """Returns the fields of stages that the first `step` steps have used."""
    found, start = [], 0
    for index, stage in enumerate(stages):
        done = step > start + stage["steps"]  # then its length is history as well
        for name in differing:
            if name.startswith(f"stages.{index}.") and (done or not name.endswith(".steps")):
                found.append(name)
        start += stage["steps"]
        if step <= start:
            break
    return found


def _check_length(stages: list[dict], config: TrainConfig, step: int) -> None:
    """Raises `UserError` where the stage that the first `step` steps end in is shorter now than
    they are: the next one would begin in its middle.
    """
    ends = list(itertools.accumulate(stage["steps"] for stage in stages))
    index = bisect.bisect_left(ends, step)  # the first that does not end before `step`
    taken = step - ends[index] + stages[index]["steps"]
    if config.stages[index].steps < taken:
        raise UserError(
            f"stages.{index}.steps = {config.stages[index].steps}: a run at step {step} has taken "
            f"{taken} of that stage, and it may have no fewer"
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Returns {"a.b.0": leaf} of nested mappings and lists."""
    if isinstance(value, (Mapping, list)) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {
            name: leaf
            for key, inner in items
            for name, leaf in _flat(inner, f"{path}.{key}" if path else str(key)).items()
        }
    return {path: value}
