import dataclasses
from typing import Any, Literal

import pytest

from skyreels_jax.core.config import from_dict, override, to_dict
from skyreels_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-4
    warmup: int = 10
    name: Literal["adam", "muon"] = "adam"
    betas: tuple[float, float] = (0.9, 0.95)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters:
    rank: int = 4
    optimizer: Optimizer = Optimizer()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needy:
    rank: int
    alpha: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    steps: int
    optimizer: Optimizer = Optimizer()
    resume: bool = True
    seed: int | None = None
    sizes: tuple[int, ...] = ()
    out: str = ""
    adapters: Adapters | None = None
    needy: Needy | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    model: Any


def test_round_trip_is_exact_and_json_ready():
    values = {"steps": 3, "optimizer": {"learning_rate": 1, "betas": [0.5, 0.9]}, "sizes": [1, 2]}
    config = from_dict(Train, values)
    assert config.optimizer.learning_rate == 1.0 and config.optimizer.betas == (0.5, 0.9)
    assert config.sizes == (1, 2)
    assert from_dict(Train, to_dict(config)) == config


@pytest.mark.parametrize(
    "values, message",
    [
        ({"steps": 3, "optimiser": {}}, "did you mean 'optimizer'"),
        ({"steps": 3, "optimizer": {"learning_rat": 1.0}}, "did you mean 'learning_rate'"),
        ({}, "needs steps"),
        ({"steps": 0.5}, "expected int"),
        ({"steps": True}, "expected int"),
        ({"steps": 1, "optimizer": {"name": "sgd"}}, "'adam', 'muon'"),
        ({"steps": 1, "optimizer": {"betas": [0.5]}}, "expected 2 values"),
        ({"steps": 1, "seed": "x"}, "expected int"),
        (5, "Train: expected its fields by name, got 5"),
        (None, "Train: expected its fields by name, got None"),
        ({"steps": 1, "adapters": 5}, "expected fields by name .rank, optimizer., got 5"),
    ],
)
def test_bad_mappings_are_refused_with_the_legal_values(values, message):
    with pytest.raises(UserError, match=message):
        from_dict(Train, values)


def test_of_what_is_missing_the_choices_are_told():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Chosen:
        kind: Literal["vae", "reward"]
        out: str

    with pytest.raises(UserError, match="Chosen needs kind .'vae' or 'reward'., out"):
        from_dict(Chosen, {})


def test_ignored_and_private_keys_pass():
    assert from_dict(Train, {"steps": 1, "_class_name": "X", "old": 2}, ignore=["old"]).steps == 1


def test_override_by_dotted_path():
    config = Train(steps=3)
    assert override(config, "optimizer.learning_rate", "1").optimizer.learning_rate == 1.0
    assert override(config, "optimizer.name", "muon").optimizer.name == "muon"
    assert override(config, "seed", "None").seed is None
    assert override(config, "out", "2026").out == "2026"
    assert override(config, "out", "runs/a").out == override(config, "out", "'runs/a'").out
    for path, text in (
        ("optimizer.warm_up", "3"),
        ("steps", "0.5"),
        ("steps.x", "1"),
        ("stepz", "1"),
    ):
        with pytest.raises(UserError):
            override(config, path, text)


def test_what_is_of_any_kind_keeps_it():
    config = Run(model=Adapters())
    assert override(config, "model", "{'rank': 8}").model == Adapters(rank=8)
    for text in ("5", "None", "big"):
        with pytest.raises(UserError, match="Run.model: expected fields by name .rank, optim"):
            override(config, "model", text)


def test_below_none_a_dataclass_is_made():
    config = override(Train(steps=3), "adapters.rank", "8")
    assert config.adapters == Adapters(rank=8)
    assert override(config, "adapters.rank", "2").adapters.rank == 2
    deep = override(Train(steps=3), "adapters.optimizer.warmup", "5")
    assert deep.adapters == Adapters(optimizer=Optimizer(warmup=5))
    for path, message in (
        ("adapters.rnk", "did you mean 'rank'"),
        ("needy.rank", "Needy needs alpha"),
        ("seed.x", "it is a plain value"),
    ):
        with pytest.raises(UserError, match=message):
            override(Train(steps=3), path, "8")
