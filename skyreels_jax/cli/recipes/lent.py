"""Films and numbers of steps that a run in stages takes from another one, to be compared with it.

Without its own implicit accuracy a run has no plateau; it trains as long as the other one did.
"""

import pathlib

from skyreels_jax.cli.recipes.journal import read_journal
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.preferences.film_store import MANIFEST
from skyreels_jax.objectives.chosen import Chosen
from skyreels_jax.training import resume
from skyreels_jax.training.preferences import FlowDPOConfig

# In these both runs must be alike: they decide which films there are, and what both start from, how
# much a step is, and what is measured.
_ALIKE = ("seed", "accumulate", "model", "start", "data.vae", "data.num_frames")
_ALIKE += ("stages.0.frames", "stages.0.batch")
_ALIKE += ("preferences.reward", "preferences.prompts", "preferences.films_per_prompt")
_ALIKE += ("preferences.batch_size", "preferences.inference_steps", "preferences.guidance_scale")
_ALIKE += ("preferences.not_worse", "preferences.guards.films")


def check_lent(config: FlowDPOConfig) -> None:
    """Raises `UserError` unless `preferences.films`, if given, has what `config` needs."""
    said = config.preferences
    if said.films is None:
        if isinstance(config.objective, Chosen):
            raise UserError(
                "objective chosen has no implicit accuracy to end a stage by: name the run whose "
                "films, and as many steps, it trains on (preferences.films)"
            )
        return
    saved = read_journal(pathlib.Path(said.films))
    if saved is None:
        raise UserError(
            f"preferences.films: {said.films} is no run in stages (no stages.json); train "
            "configs/toy/flow_dpo.py first"
        )
    differing = resume.differences(saved["config"], config)
    if fixed := [line for name, line in differing.items() if resume.among(name, _ALIKE)]:
        raise UserError(
            f"preferences.films: {said.films} is another kind of run: {', '.join(fixed)}"
        )
    done = len(saved["stages"]) - 1
    if done < said.stages:
        raise UserError(
            f"preferences.films: {said.films} has finished {done} of {said.stages} stages; finish "
            "it, or train fewer (preferences.stages)"
        )
    for stage in range(1, said.stages + 1):
        folder = pathlib.Path(said.films) / f"stage_{stage}" / "films"
        if not (folder / MANIFEST).is_file():
            raise UserError(f"preferences.films: {folder} holds no films any more; make them again")


def lent_steps(config: FlowDPOConfig, stage: int) -> int:
    """Returns for how many steps the run `preferences.films` trained in a finished stage."""
    saved = read_journal(pathlib.Path(config.preferences.films))
    return int(saved["stages"][stage]["steps"])
