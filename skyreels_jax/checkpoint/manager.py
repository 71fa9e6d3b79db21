"""A folder of checkpoints: train state, position in the data, resolved configuration."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from skyreels_jax.checkpoint.chunks import chunked
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.version import code_version


class Checkpoints:
    """The checkpoints under `folder`; use as a context manager.

    The first that is saved makes the folder: who only looks for checkpoints makes no run of it.
    The state is any pytree of arrays with static structure; the rest is json-ready.
    A checkpoint is written aside, in the background, and moved into place when it is complete; what
    a killed run left unfinished is removed by the next one that writes.

    keep: of a run that writes: the latest so many stay, and those of every `keep_every`-th step if
    that is not 0. None: nothing is removed, as becomes a reader; of many processes each reads by
    itself, whether the others do or not.
    """

    def __init__(self, folder: str | pathlib.Path, *, keep: int | None = None, keep_every: int = 0):
        self._code = None if keep is None else code_version()  # before anybody edits it
        by_itself = keep is None and jax.process_count() > 1
        this = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=keep is not None,
            create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=this, active_processes={this}
            )
            if by_itself
            else ocp.options.MultiprocessingOptions(),
        )
        self._folder = pathlib.Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return  # a device or a process is gone, and to finish a save may mean to wait for it
        self._manager.wait_until_finished()
        self._manager.close()

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, data: dict, config: dict) -> None:
        """Begins to write a checkpoint of `step`, after the one before it has been written; nothing
        happens when there is one already. `state` may be donated as soon as this returns.
        """
        if step == self.latest():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manager.wait_until_finished()
        if jax.default_backend() == "cpu":
            # From other devices Orbax has copied before it returns; of arrays on CPU it writes the
            # very memory, which the step that is given the state overwrites.
            state = jax.tree.map(jnp.copy, state)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state, save_args=jax.tree.map(chunked, state)),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config),
        )
        self._manager.save(step, args=items, force=True, custom_metadata={"code": self._code})

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

    def config(self, step: int) -> dict:
        """Returns the resolved configuration that the checkpoint of `step` was written with."""
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)["config"]

    def code(self, step: int) -> str | None:
        """Returns the version of the code that wrote the checkpoint of `step`, if it says so."""
        return (self._manager.metadata(step).custom_metadata or {}).get("code")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
