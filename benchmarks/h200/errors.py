"""How far numbers are from the truth, and when that is too far."""

import numpy as np


def relative_errors(ours: dict, truth: dict, *, bound: float, masked: float) -> dict[str, float]:
    """Returns the norm of what each array is off by, over the truth's if that is not 0.

    masked: a float32 that stands for no value; where it is not at the same places, the error is
    infinite. Raises `ArithmeticError` where an error is not below `bound`, as NaN is not.
    """
    errors = {}
    for name, expected in truth.items():
        a, b = (np.asarray(x, np.float64) for x in (ours[name], expected))
        none = [x == np.float64(np.float32(masked)) for x in (a, b)]
        a, b = (np.where(hole, 0.0, x) for hole, x in zip(none, (a, b), strict=True))
        off = np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0)
        errors[name] = float(off) if np.array_equal(*none) else np.inf
    if wrong := {name: error for name, error in errors.items() if not error < bound}:
        raise ArithmeticError(f"errors that are not below {bound}: {wrong}")
    return errors
