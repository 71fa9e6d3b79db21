"""What everything that ranks films asks of a reward model, whatever its backbone."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8


@runtime_checkable
class RewardModel(Protocol):
    """Films in, one number a film out; more is better motion. It never sees a prompt."""

    def score(self, videos: UInt8[np.ndarray, "B T H W 3"]) -> Float32[np.ndarray, " B"]:
        """The scores of ``videos``, each film judged by itself.

        Scores are normalised (mean 0, deviation 1 over the clips the model was calibrated on),
        so that they compare across checkpoints. Raises ``UserError`` where the model cannot
        see films of that length or size.
        """
        ...
