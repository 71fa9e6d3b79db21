"""A folder of checkpoints: train state, position in the data, resolved configuration."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp

from skyreels_jax.checkpoint.chunks import chunked
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import matched
from skyreels_jax.core.types import Params


class Checkpoints:
    """The checkpoints under `folder`, the latest `keep` of them; use as a context manager.

    The state is any pytree of arrays with static structure; the rest is json-ready.
    """

    def __init__(self, folder: str | pathlib.Path, *, keep: int = 2):
        # Arrays on CPU are handed to a writer thread without a copy, and the next step overwrites a
        # donated state.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=jax.default_backend() != "cpu"
        )
        self._manager = ocp.CheckpointManager(
            pathlib.Path(folder).absolute(),
            options=options,
            item_names=("state", "data", "config"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, data: dict, config: dict) -> None:
        """Writes a checkpoint of `step`; nothing happens when there is one already."""
        if step == self.latest():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state, save_args=jax.tree.map(chunked, state)),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config),
        )
        self._manager.save(step, args=items, force=True)

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """Returns (state, data) of `step`.

        `like` gives the state's structure, shapes, dtypes and shardings.
        Raises `UserError` when the checkpoint holds a state of another structure.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(like)), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} was written with another model or "
                f"optimizer: give the same config, or another --out ({str(error).splitlines()[0]})"
            ) from error
        return restored["state"], restored["data"]

    def restore_raw(self, step: int) -> dict[str, Any]:
        """Returns the state of `step` as nested dicts, without knowing what it is."""
        items = ocp.args.Composite(state=ocp.args.StandardRestore())
        return self._manager.restore(step, args=items)["state"]

    def config(self, step: int) -> dict:
        """Returns the resolved configuration that the checkpoint of `step` was written with."""
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)["config"]


def restore_params(
    folder: str | pathlib.Path,
    like: Params,
    *,
    ema: bool = True,
    adapt: Callable[[Params], Params] = lambda stored: stored,
) -> Params:
    """Returns the parameters of the newest checkpoint under `folder`, as a tree like `like`.

    Averaged parameters where the run kept them and `ema` asks for them; the optimiser's state is
    not needed. `like` holds arrays or abstract arrays. `adapt` makes, from the tree that was
    stored, the one that is returned.
    Raises `UserError` if there is no checkpoint, or one of another model.
    """
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"no checkpoint under {folder}")
        state = checkpoints.restore_raw(step)
    stored = adapt(state["ema"] if ema and state.get("ema") else state["params"])
    return matched(stored, like, of=f"the checkpoint under {folder}")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
