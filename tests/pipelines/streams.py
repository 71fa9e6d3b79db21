"""What the tests of streams share: two prompts, the smallest films, pictures of noise."""

import itertools

import numpy as np

PROMPT, OTHER = "A large red circle moves left.", "A small blue square jumps."
SMALL = {"height": 16, "width": 32}


def frames(stream, count=None) -> np.ndarray:
    return np.concatenate(list(itertools.islice(stream, count)))


def picture(seed: int, height=16, width=32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
