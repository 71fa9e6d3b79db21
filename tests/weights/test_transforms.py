"""Layout changes: what they do, and that they are exactly invertible."""

import numpy as np
import pytest

from skyreels_jax.weights.transforms import (
    CONV2D,
    CONV3D,
    LINEAR,
    SAME,
    Transform,
    squeeze,
)

PATCH = Transform("o i t h w -> (t h w i) o", (("t", 1), ("h", 2), ("w", 2)))
SPLIT = Transform("(n k) i -> i n k", (("n", 3),))


@pytest.mark.parametrize(
    ("transform", "source", "target"),
    [
        (SAME, (2, 3), (2, 3)),
        (LINEAR, (2, 3), (3, 2)),
        (CONV2D, (2, 3, 4, 5), (4, 5, 3, 2)),
        (CONV3D, (2, 3, 4, 5, 6), (4, 5, 6, 3, 2)),
        (Transform("o i 1 1 -> i o"), (2, 3, 1, 1), (3, 2)),
        (squeeze(4), (5, 1, 1, 1), (5,)),
        (PATCH, (5, 3, 1, 2, 2), (12, 5)),
        (SPLIT, (6, 4), (4, 3, 2)),
    ],
)
def test_shapes_and_inverse(transform, source, target):
    array = np.random.default_rng(0).normal(size=source)
    moved = transform.forward(array)
    assert moved.shape == target
    assert transform.source_shape(target) == source
    np.testing.assert_array_equal(transform.inverse(moved), array)


def test_a_patch_kernel_becomes_a_matrix():
    kernel, patch = np.random.default_rng(0).normal(size=(2, 5, 3, 1, 2, 2))
    np.testing.assert_allclose(
        patch[0].transpose(1, 2, 3, 0).reshape(-1) @ PATCH.forward(kernel),
        (kernel * patch[:1]).sum((1, 2, 3, 4)),
    )


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (LINEAR, (2,)),
        (Transform("o i 1 1 -> i o"), (2, 3, 3, 3)),
        (SPLIT, (7, 4)),
        (Transform("(a b) -> a b"), (6,)),
    ],
)
def test_a_shape_that_does_not_fit(transform, shape):
    with pytest.raises(ValueError, match="does not fit|needs sizes"):
        transform.forward(np.zeros(shape))


@pytest.mark.parametrize("pattern", ["a b -> a", "a a -> a a", "a -> a c"])
def test_a_pattern_must_lose_nothing(pattern):
    with pytest.raises(ValueError, match="same axes"):
        Transform(pattern)
