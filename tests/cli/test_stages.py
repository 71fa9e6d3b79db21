"""The parts of motion learning in stages that need no model."""

import dataclasses

import pytest

from skyreels_jax.cli.recipes import own_films, stages
from skyreels_jax.cli.recipes.journal import Journal
from skyreels_jax.core.errors import UserError
from skyreels_jax.objectives.chosen import Chosen
from skyreels_jax.objectives.flow_dpo import FlowDPO
from skyreels_jax.training.config import DataConfig, OptimizerConfig, StageConfig
from skyreels_jax.training.preferences import FlowDPOConfig, GuardConfig, PreferencesConfig

START = {"stage": 0, "adherence": 0.95, "consistency": 0.8, "quality": 30.0, "stopped": ""}


def config(**options):
    preferences = PreferencesConfig(reward="handmade_rewards:Brightness")
    return FlowDPOConfig(
        kind="flow_dpo",
        out="unused",
        model=None,
        data=DataConfig(),
        stages=(StageConfig(steps=5, batch=2),),
        optimizer=OptimizerConfig(),
        **{"start": "run", "objective": FlowDPO(), "preferences": preferences, **options},
    )


def test_an_axis_may_fall_as_far_as_the_guard_says():
    guards = GuardConfig(adherence=0.03, consistency=0.1, quality=1.0)
    row = {"stage": 2, "adherence": 0.93, "consistency": 0.9, "quality": 29.5}
    assert stages.fallen(START, row, guards) == ""
    said = stages.fallen(START, row | {"adherence": 0.9, "quality": 28.0}, guards)
    assert said == (
        "stage 2: adherence fell from 0.95 to 0.9, by more than 0.03 (preferences.guards.adherence)"
        "; quality fell from 30 to 28, by more than 1 (preferences.guards.quality)"
    )


def test_a_guard_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="how far each may fall: 0 or more"):
        GuardConfig(quality=float("nan"))


def test_seeds_hang_on_all_numbers():
    seeds = {stages.own_films.seed_of(*n) for n in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**32 for seed in seeds)
    assert own_films.seed_of(1, 2, 3) == own_films.seed_of(1, 2, 3)


def test_every_stage_draws_noise_of_its_own():
    seeds = [stages._stage_config(config(seed=seed), k).seed for seed in (0, 1) for k in (1, 2, 3)]
    assert len(set(seeds)) == 6


def test_a_reward_is_told_by_its_weights_and_its_scale(tmp_path):
    name, found = f"module:load {tmp_path}", []
    for file, content in (
        *(("model.safetensors", b"1"), ("model.safetensors", b"2")),
        *(("config.json", b"1"), ("config.json", b"2"), ("metrics.csv", b"1")),
    ):
        (tmp_path / file).write_bytes(content)
        found.append(own_films.reward_state(name))
    assert len(set(found)) == 4 and found[-1] == found[-2]  # a log is no part of it


def test_the_journal_knows_the_last_good_stage(tmp_path):
    journal = Journal(tmp_path, config())
    assert (journal.good, journal.stopped) == (0, "")
    for stage, stopped in ((0, ""), (1, ""), (2, "stage 2: it fell")):
        journal.add(START | {"stage": stage, "stopped": stopped} | ({"steps": 9} if stage else {}))
    again = Journal(tmp_path, config())
    assert again.rows == journal.rows and (again.good, again.stopped) == (1, "stage 2: it fell")
    lines = again.table().splitlines()
    assert len(lines) == 4 and lines[0].split()[:2] == ["stage", "adherence"]
    assert "stopped" not in lines[0] and lines[1].split()[-1] == "-"


def test_a_run_cannot_become_another_but_may_go_on_longer(tmp_path, capsys):
    Journal(tmp_path, config()).add(START)
    more = PreferencesConfig(reward="handmade_rewards:Brightness", stages=5, films_per_prompt=4)
    Journal(tmp_path, config(preferences=more))
    said = capsys.readouterr().err
    assert "going on from stage 0 with preferences.stages: 3 -> 5" in said
    assert "going on from stage 0 with preferences.films_per_prompt: 8 -> 4" in said
    for other, field in (
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"start": "else"}, "start: run -> else"),
        ({"preferences": PreferencesConfig(reward="a:B")}, "preferences.reward"),
        ({"preferences": dataclasses.replace(more, films="run")}, "preferences.films: None -> run"),
        ({"objective": Chosen()}, "objective.name: flow_dpo -> chosen"),
    ):
        with pytest.raises(UserError, match=f"{field}.*finished stage 0; give another --out"):
            Journal(tmp_path, config(**other))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"config": {}, "stages": []}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(UserError, match="is no journal of stages; give another --out"):
        Journal(tmp_path, config())


def test_parting_of_reward_and_judge_is_said(capsys):
    row = {"stage": 1, "reward": 1.0, "motion": 0.5}
    stages._warn_of_parting([row])
    stages._warn_of_parting([row, row | {"reward": 2.0, "motion": 0.6}])
    assert capsys.readouterr().err == ""
    stages._warn_of_parting([row, row | {"stage": 2, "reward": 2.0, "motion": 0.4}])
    assert "stage 2: the reward rose from 1 to 2 and the judge" in capsys.readouterr().err
