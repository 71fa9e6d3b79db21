"""The optimiser: which parameter gets which update, how large, and when."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.training.config import OptimizerConfig, PolicyConfig, StageConfig, TrainConfig
from skyreels_jax.training.optimizer import make_optimizer, muon_axes, schedule


def params():
    key = jax.random.key(0)
    shapes = {
        "blocks": {"q": {"kernel": (3, 8, 16), "bias": (3, 16)}},
        "conv": {"kernel": (3, 3, 3, 4, 16)},
        "embedding": (20, 8),
        "head": {"kernel": (16, 8)},
        "norm": {"scale": (16,)},
    }
    return jax.tree.map(
        lambda shape: jax.random.normal(key, shape), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )


def test_muon_takes_kernels_and_keeps_stacked_layers_apart():
    config = OptimizerConfig(policies=(PolicyConfig(paths="head/kernel", adam=True),))
    axes = muon_axes(config, params())
    assert axes["blocks"]["q"]["kernel"] == ((1,), (2,))
    assert axes["conv"]["kernel"] == ((0, 1, 2, 3), (4,))
    assert axes["embedding"] is axes["norm"]["scale"] is axes["blocks"]["q"]["bias"] is None
    assert axes["head"]["kernel"] is None


def test_muon_updates_have_the_stated_size_and_are_nearly_orthogonal():
    config = OptimizerConfig(warmup_steps=0, learning_rate=0.5, muon_rms=0.2, clip_norm=0.0)
    tree = params()
    tx = make_optimizer(config, tree, 100)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    for update in (updates["blocks"]["q"]["kernel"][1], updates["conv"]["kernel"].reshape(-1, 16)):
        rms = float(jnp.sqrt(jnp.mean(jnp.square(update))))
        assert 0.07 < rms < 0.12  # 0.5 * 0.2, to the accuracy of five Newton-Schulz steps
        singular = np.linalg.svd(np.asarray(update), compute_uv=False)
        assert singular.min() > 0.5 * singular.max()


@pytest.mark.parametrize(("size", "share"), [(10.0, 0.1), (0.5, 1.0)])
def test_gradients_are_clipped_by_their_norm_over_all_parameters(size, share):
    """Adam's first moment is a tenth of what comes to it."""
    config = OptimizerConfig(name="adam", clip_norm=1.0)
    tree = {"a": jnp.asarray([0.6, 0.0]), "b": jnp.asarray([[0.8]])}  # of norm 1
    tx = make_optimizer(config, tree, 10)
    grads = jax.tree.map(lambda x: x * size, tree)
    _, state = tx.update(grads, tx.init(tree), tree)
    first = {name: leaf for name, leaf in named_leaves(state) if "/mu/" in name}
    assert len(first) == 2
    for name, leaf in first.items():
        np.testing.assert_allclose(leaf, grads[name[-1]] * share * 0.1, rtol=1e-5)


def test_a_stack_is_updated_as_its_layers_are():
    config = OptimizerConfig(warmup_steps=0)
    tree = {"q": {"kernel": jax.random.normal(jax.random.key(1), (2, 6, 5))}}
    tx = make_optimizer(config, tree, 10)
    stacked = tx.update(tree, tx.init(tree), tree)[0]["q"]["kernel"]
    for layer in range(2):
        one = jax.tree.map(lambda x, i=layer: x[i] / 1.0, tree)
        tx = make_optimizer(OptimizerConfig(warmup_steps=0, clip_norm=0.0), one, 10)
        alone = tx.update(one, tx.init(one), one)[0]["q"]["kernel"]
        np.testing.assert_allclose(stacked[layer], alone, atol=1e-5)


def test_schedule_warms_up_holds_and_falls_to_its_end():
    config = OptimizerConfig(warmup_steps=10, decay_start=0.5, final_scale=0.1)
    values = np.array([schedule(config, 100)(step) for step in range(101)])
    np.testing.assert_allclose(values[[0, 9, 10, 49]], [0.1, 0.91, 1, 1], atol=1e-6)
    np.testing.assert_allclose(values[[75, 100]], [0.55, 0.1], atol=1e-6)
    cosine = schedule(OptimizerConfig(warmup_steps=0, decay_start=0.0, decay="cosine"), 100)
    np.testing.assert_allclose([cosine(0), cosine(50), cosine(100)], [1, 0.5, 0], atol=1e-6)


def policies(*rows, **options):
    """A config whose first step has the whole learning rate, without clipping."""
    table = tuple(from_dict(PolicyConfig, row) for row in rows)
    return OptimizerConfig(policies=table, warmup_steps=0, clip_norm=0.0, **options)


def first_update(config, tree):
    tx = make_optimizer(config, tree, 10)
    return dict(named_leaves(tx.update(tree, tx.init(tree), tree)[0]))


def test_two_steps_of_adam_with_policies_by_hand():
    """The parameter, twice, by the formula of AdamW in numpy: rate and decay are the policy's."""
    table = (
        {"paths": "a/.*", "learning_rate": 0.5, "weight_decay": 0.3},
        {"paths": ".*/bias", "weight_decay": 0.0},
    )
    config = policies(*table, name="adam", adam_learning_rate=0.1, weight_decay=0.2)
    rng = np.random.default_rng(0)
    shapes = {"a": {"bias": (3,)}, "b": {"bias": (3,), "kernel": (2, 3)}}
    start, first, second = (
        {k: {n: rng.standard_normal(s) for n, s in v.items()} for k, v in shapes.items()}
        for _ in range(3)
    )
    tx = make_optimizer(dataclasses.replace(config, decay_start=1.0), start, 10)
    tree = jax.tree.map(jnp.float32, start)
    state = tx.init(tree)
    for gradient in (first, second):
        updates, state = tx.update(jax.tree.map(jnp.float32, gradient), state, tree)
        tree = optax.apply_updates(tree, updates)

    def by_hand(p, g, h, rate, decay):
        m, v = 0.1 * g, 0.01 * g**2
        p = p - rate * (m / 0.1 / (np.sqrt(v / 0.01) + 1e-8) + decay * p)
        m, v = 0.9 * m + 0.1 * h, 0.99 * v + 0.01 * h**2
        step = (m / (1 - 0.9**2)) / (np.sqrt(v / (1 - 0.99**2)) + 1e-8)
        return p - rate * (step + decay * p)

    numbers = {
        "a": {"bias": (0.05, 0.3)},
        "b": {"bias": (0.1, 0.0), "kernel": (0.1, 0.2)},
    }
    want = jax.tree.map(lambda p, g, h, n: by_hand(p, g, h, *n), start, first, second, numbers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), tree, want)


def test_decay_is_the_same_whoever_trains():
    """What decay adds to an update is -rate x decay x parameter, of Muon and of its Adam."""
    rates = {"learning_rate": 0.5, "adam_learning_rate": 0.25}
    plain = first_update(policies(**rates), params())
    decayed = first_update(policies(**rates, weight_decay=0.2), params())
    table = ({"paths": "norm/scale", "weight_decay": 0.3}, {"paths": "conv/.*", "weight_decay": 0})
    chosen = first_update(policies(*table, **rates, weight_decay=0.2), params())
    tree = dict(named_leaves(params()))
    for name in tree:
        muon = name.endswith("kernel")
        base = -0.5 * 0.2 * tree[name] if muon else 0.0 * tree[name]
        np.testing.assert_allclose(decayed[name] - plain[name], base, atol=1e-5)
        want = {"norm/scale": -0.25 * 0.3 * tree[name], "conv/kernel": 0.0 * tree[name]}
        np.testing.assert_allclose(chosen[name] - plain[name], want.get(name, base), atol=1e-5)


def test_a_policy_scales_the_learning_rate_and_the_first_match_counts():
    table = ({"paths": "blocks/q/bias", "learning_rate": 3}, {"paths": "blocks/.*", "frozen": True})
    updates = first_update(policies(*table), params())
    plain = first_update(policies(), params())
    assert not updates["blocks/q/kernel"].any()
    np.testing.assert_allclose(updates["blocks/q/bias"], 3 * plain["blocks/q/bias"], rtol=1e-6)
    for name in plain.keys() - {"blocks/q/kernel", "blocks/q/bias"}:
        np.testing.assert_array_equal(updates[name], plain[name])


@pytest.mark.parametrize(
    "table, message",
    [
        ([{"paths": "heads/.*", "adam": True}], "'heads/.*' matches no parameter path$"),
        ([{"paths": "head", "frozen": True}], "'head' matches no parameter path$"),
        (
            [{"paths": "head/.*", "adam": True}, {"paths": "head/kernel", "frozen": True}],
            "'head/kernel' matches no parameter path but those of policies before it",
        ),
        ([{"paths": ".*", "frozen": True}], "every parameter is frozen"),
        ([{"paths": "("}], r"'\(' is no regular expression"),
        ([{"paths": ".*", "learning_rate": -1.0}], "learning_rate and weight_decay are finite and"),
        ([{"paths": ".*", "weight_decay": math.inf}], "are finite and 0 or more"),
        ([{"paths": ".*", "frozen": True, "adam": True}], "is frozen; leave out all else"),
    ],
)
def test_bad_policies_are_refused(table, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(policies(*table), params(), 10)


def test_policies_may_name_weights_that_are_no_parameters():
    table = ({"paths": "heads/k.*", "frozen": True}, {"paths": "heads/.*", "adam": True})
    fixed = {"heads": {"kernel": np.zeros((2, 2)), "bias": np.zeros(2)}}
    tx = make_optimizer(policies(*table), params(), 10, fixed=fixed)
    updates, _ = tx.update(params(), tx.init(params()), params())
    assert all(leaf.any() for leaf in jax.tree.leaves(updates))


def test_the_state_is_that_of_checkpoints_from_before_there_were_policies():
    """`frozen` was a partition around all else, `adam_paths` nothing but another choice of axes."""
    table = ({"paths": "blocks/.*", "frozen": True}, {"paths": "head/kernel", "adam": True})
    config = OptimizerConfig(policies=tuple(PolicyConfig(**row) for row in table))
    axes = {"muon_weight_dimension_numbers": lambda tree: muon_axes(config, tree)}
    muon = contrib.muon(lambda step: 0.1 / (1 + step), **axes)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), muon)
    labels = {name: "frozen" if name == "blocks" else "trained" for name in params()}
    before = optax.partition({"trained": clipped, "frozen": optax.set_to_zero()}, labels)
    shapes = [
        {name: leaf.shape for name, leaf in named_leaves(tx.init(params()))}
        for tx in (make_optimizer(config, params(), 9), before)
    ]
    assert shapes[0] == shapes[1]


def test_bad_values_are_refused():
    with pytest.raises(UserError, match="fraction"):
        OptimizerConfig(decay_start=2.0)
    for name, value in (("clip_norm", -1.0), ("learning_rate", math.nan), ("adam_b2", 1.0)):
        with pytest.raises(UserError, match=f"optimizer: {name} must be"):
            OptimizerConfig(**{name: value})
    with pytest.raises(UserError, match=r"4k \+ 1"):
        StageConfig(steps=1, batch=1, frames=8)
    with pytest.raises(UserError, match="batch >= 1"):
        StageConfig(steps=1, batch=0)


def test_stage_of_a_step():
    from skyreels_jax.training.config import DataConfig

    stages = (
        StageConfig(steps=2, batch=1),
        StageConfig(steps=0, batch=1),
        StageConfig(steps=3, batch=1),
    )
    config = TrainConfig(
        kind="vae",
        out="x",
        model=None,
        objective=None,
        data=DataConfig(),
        stages=stages,
        optimizer=OptimizerConfig(),
    )
    assert config.total_steps == 5
    assert [config.stage_at(step) for step in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(UserError):
        config.stage_at(5)
