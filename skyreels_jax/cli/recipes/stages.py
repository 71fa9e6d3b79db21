"""Motion learning in stages: films, ranking, training against the reference; then all anew."""

import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np

from skyreels_jax.cli.recipes import own_films, run
from skyreels_jax.cli.recipes.flow_dpo import FlowDPORecipe, check
from skyreels_jax.cli.recipes.journal import STOPPED, Journal, Row
from skyreels_jax.cli.recipes.lent import check_lent, lent_steps
from skyreels_jax.cli.recipes.lora import check_lora
from skyreels_jax.cli.recipes.model import abstract_weights
from skyreels_jax.cli.recipes.own_films import (
    REWARD,
    Order,
    Score,
    by_reward,
    judged,
    make_films,
    rewards,
)
from skyreels_jax.cli.recipes.start import check_start, started
from skyreels_jax.cli.recipes.text_to_video import encode_captions, vae_folder
from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.data.latents import fingerprint
from skyreels_jax.data.preferences.film_store import FilmStore
from skyreels_jax.data.preferences.ranked import RankedPairs, best_against_worst, not_worse
from skyreels_jax.data.toy_film.captions import sentences
from skyreels_jax.data.toy_film.prompt_sets import SETS, scene_set
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.data.toy_film.world import SIZE, sample_scene
from skyreels_jax.evals.axes import AXES
from skyreels_jax.evals.judge import check_size
from skyreels_jax.models import layout
from skyreels_jax.models.reward.protocol import RewardModel
from skyreels_jax.objectives.flow_dpo import FlowDPO
from skyreels_jax.pipelines import load
from skyreels_jax.training.metrics import last_means
from skyreels_jax.training.preferences import Allowance, FlowDPOConfig, GuardConfig

GUARDED = tuple(field.name for field in dataclasses.fields(Allowance))
TRAINED = ("implicit_accuracy", "margin", "drift", "mse")  # those that the objective has
MEASURED = 100_000  # where the seeds of held-out scenes begin: benchmarks have the first ones


def train(recipe: FlowDPORecipe, config: FlowDPOConfig) -> bool:
    """Runs or continues all stages; returns whether they are finished (False: a signal came).

    Stage k makes films with the model of stage k - 1 (of `config.start` first), ranks them, trains
    on the pairs with that model as the reference (with `config.lora`: its adapters, with those as
    they were); what would be exported is measured on held-out captions, by reward and judge side by
    side. With `preferences.films` it takes the films of another run's stage k. All that is finished
    is on disk under `config.out`: a call goes on where the one before it was stopped or killed, to
    the same result. Where an axis that motion learning is not to touch has fallen too far, that
    stage is the last, and not the result.
    """
    _check(recipe, config)
    reward = own_films.open_reward(config.preferences.reward)
    journal = Journal(pathlib.Path(config.out), config)
    if len(journal.rows) <= config.preferences.stages and not journal.stopped:
        blank = np.zeros((1, _num_frames(config), SIZE, SIZE, 3), np.uint8)
        rewards(reward, blank)  # one that cannot see such films says so before there are any
    for stage in range(len(journal.rows), config.preferences.stages + 1):
        if journal.stopped:
            break
        row: Row = {"stage": stage}
        if stage:
            trained = _train_stage(recipe, config, reward, stage)
            if trained is None:
                return False
            row |= trained
        row |= _measured(recipe, config, reward, stage)
        row[STOPPED] = fallen(journal.rows[0], row, config.preferences.guards) if stage else ""
        journal.add(row)
        print(journal.table())
        _warn_of_parting(journal.rows)
    if journal.stopped:
        kept = f"stage {journal.good}" if journal.good else f"the start model, {config.start},"
        print(f"{journal.stopped}: stopped early, {kept} is the result", file=sys.stderr)
    return True


def export(recipe: FlowDPORecipe, config: FlowDPOConfig, *, dtype: str) -> pathlib.Path:
    """Writes the model of the last good stage, or one between it and the start model
    (`preferences.share`), into `config.out`/export; returns that folder.

    Raises `UserError` where no stage is finished and good.
    """
    out = pathlib.Path(config.out)
    good = Journal(out, config).good
    if not good:
        raise UserError(f"no stage in {out} is finished and good; the result is {config.start}")
    return _export(recipe, config, good, dtype=dtype, to=out)


def _export(
    recipe: FlowDPORecipe, config: FlowDPOConfig, stage: int, *, dtype: str, to: pathlib.Path
) -> pathlib.Path:
    """Writes the result, were `stage` the last one, into `to`/export; returns that folder."""
    if config.preferences.share != 1:
        recipe = dataclasses.replace(recipe, near=config.start)
    return run.export(recipe, _stage_config(config, stage), dtype=dtype, to=to)


def fallen(start: Row, row: Row, guards: GuardConfig) -> str:
    """Returns which axes lie too far below the start model's, or nothing."""
    said = [
        f"{axis} fell from {start[axis]:.4g} to {row[axis]:.4g}, by more than "
        f"{getattr(guards, axis):g} (preferences.guards.{axis})"
        for axis in GUARDED
        if start[axis] - row[axis] > getattr(guards, axis)
    ]
    return f"stage {row['stage']}: {'; '.join(said)}" if said else ""


def _train_stage(
    recipe: FlowDPORecipe, config: FlowDPOConfig, reward: RewardModel, stage: int
) -> Row | None:
    """Returns what the training of one stage came to; None when a signal stopped it."""
    said, steps = config.preferences, _stage_config(config, stage)
    pairs = _pairs(recipe, config, reward, stage)
    dropped = pairs.ranking.dropped
    print(f"stage {stage}: {len(pairs)} pairs, {dropped} dropped (no film better than another)")
    finished = run.train(
        dataclasses.replace(recipe, pairs=pairs),
        steps,
        reference=isinstance(config.objective, FlowDPO),
        adapters=_model_run(config, stage - 1) if config.lora and stage > 1 else None,
        until=said.plateau if said.films is None else None,
    )
    if not finished:
        return None
    last, means = last_means(pathlib.Path(steps.out) / "metrics.csv", said.plateau.window)
    row = {"steps": last, "pairs": len(pairs), "dropped": dropped}
    return row | {name: means[name] for name in TRAINED if name in means}


def _pairs(
    recipe: FlowDPORecipe, config: FlowDPOConfig, reward: RewardModel, stage: int
) -> RankedPairs:
    """Returns the best and the worst film of each prompt, of this run's stage or of another's."""
    said = config.preferences
    maker = config if said.films is None else dataclasses.replace(config, out=said.films)
    scenes = [
        scene
        for i, name in enumerate(SETS)
        for scene in scene_set(name, said.prompts, seed=config.seed + i)
    ]
    prompts = sentences(scenes, seed=config.seed)
    order = _order(config, prompts, each=said.films_per_prompt, seeds=(config.seed, stage))
    each, limits = said.films_per_prompt, said.not_worse
    shown = [scene for scene in scenes for _ in range(each)]
    store = _films(
        recipe,
        maker,
        order,
        by_reward(reward) if limits is None else judged(reward, shown),
        scores=(REWARD,) if limits is None else (REWARD, *GUARDED),
        place=_model_run(maker, stage - 1),
        folder=pathlib.Path(_model_run(maker, stage)) / "films",
    )
    legal = None
    if limits is not None:
        axes = {axis: store.column(axis).reshape(-1, each) for axis in GUARDED}
        legal = not_worse(axes, dataclasses.asdict(limits))
    ranking = best_against_worst(store.column(REWARD).reshape(-1, each), legal)
    captions = encode_captions(build_tokenizer(), [[prompt.encode()] for prompt in prompts])
    return RankedPairs(
        latents=store.latents(),
        captions={name: values[:, 0] for name, values in captions.items()},
        ranking=ranking,
    )


def _measured(recipe: FlowDPORecipe, config: FlowDPOConfig, reward: RewardModel, stage: int) -> Row:
    """Returns reward and axes of the result after a stage, on films of held-out captions."""
    folder = pathlib.Path(config.out) / f"stage_{stage}"
    place = _model_run(config, stage)
    if stage and config.preferences.share != 1:
        place = str(_export(recipe, config, stage, dtype="float32", to=folder))
    first = MEASURED + config.seed
    seeds = range(first, first + config.preferences.guards.films)
    scenes = [sample_scene(seed, "held_out") for seed in seeds]
    prompts = sentences(scenes, seed=config.seed)
    order = _order(config, prompts, each=1, seeds=(config.seed, 0))
    store = _films(
        recipe,
        config,
        order,
        judged(reward, scenes),
        scores=(REWARD, *AXES),
        place=place,
        folder=folder / "measured",
    )
    return {name: float(store.column(name).mean()) for name in (REWARD, *AXES)}


def _order(
    config: FlowDPOConfig, prompts: list[str], *, each: int, seeds: tuple[int, int]
) -> Order:
    said = config.preferences
    return Order(
        prompts=prompts,
        each=each,
        seeds=seeds,
        batch=said.batch_size,
        options={
            "num_frames": _num_frames(config),
            "inference_steps": said.inference_steps,
            "guidance_scale": said.guidance_scale,
        },
    )


def _films(
    recipe: FlowDPORecipe,
    config: FlowDPOConfig,
    order: Order,
    score: Score,
    *,
    scores: tuple[str, ...],
    place: str,
    folder: pathlib.Path,
) -> FilmStore:
    """Returns the films of `order` by the model at `place`, scored."""
    source = load.find(place)
    said = {"order": to_dict(order), "reward": own_films.reward_state(config.preferences.reward)}
    said |= {"model": source.fingerprint, "defaults": to_dict(source.defaults)}
    expected = fingerprint(started(place, abstract_weights(recipe, config)), said)
    title = f"{folder.parent.name}: {folder.name}"
    return make_films(folder, source, order, score, scores=scores, expected=expected, title=title)


def _check(recipe: FlowDPORecipe, config: FlowDPOConfig) -> None:
    """Raises `UserError` for what would come out in the middle of the work."""
    check(config)
    check_lora(recipe, config)
    check_size(_num_frames(config), SIZE, SIZE)
    check_start(config.start)
    vae = layout.read_component(vae_folder(config.data), "vae").config
    first = load.find(config.start).configs
    if first["transformer"].inject_sample_info:
        raise UserError(
            f"start: the model of {config.start} has an fps embedding; start from one that was "
            "fine-tuned without it (configs/toy/sft.py)"
        )
    if vae != first["vae"]:
        raise UserError(f"data.vae: {config.data.vae} is not the VAE of {config.start}; name that")
    check_lent(config)


def _model_run(config: FlowDPOConfig, stage: int) -> str:
    """Returns the folder of the run with the model after `stage`; 0: the start model."""
    return str(pathlib.Path(config.out) / f"stage_{stage}") if stage else config.start


def _stage_config(config: FlowDPOConfig, stage: int) -> FlowDPOConfig:
    """Returns the config of one stage's training: from the model before it, in its own folder, with
    noise, times and an order of pairs of its own.

    Adapters are upon `config.start` in all stages, so that those of the last are the whole change.
    """
    changed: dict[str, Any] = {"seed": own_films.seed_of(config.seed, stage)}
    if config.preferences.films is not None:
        steps = lent_steps(config, stage)
        changed["stages"] = (dataclasses.replace(config.stages[0], steps=steps),)
    changed["out"] = _model_run(config, stage)
    if config.lora is None:
        changed["start"] = _model_run(config, stage - 1)
    return dataclasses.replace(config, **changed)


def _num_frames(config: FlowDPOConfig) -> int:
    """Returns how long the films are."""
    return config.stages[0].frames or config.data.num_frames


def _warn_of_parting(rows: list[Row]) -> None:
    """Says so when the reward rose and the judge's motion score fell in the last stage."""
    if len(rows) < 2:
        return
    (before, now), motion = rows[-2:], "motion"
    if now[REWARD] > before[REWARD] and now[motion] < before[motion]:
        print(
            f"stage {now['stage']}: the reward rose from {before[REWARD]:.4g} to "
            f"{now[REWARD]:.4g} and the judge's motion score fell from {before[motion]:.4g} to "
            f"{now[motion]:.4g}: the learner may be hacking the reward",
            file=sys.stderr,
        )
