"""Rewards by hand, for tests of motion learning."""

import numpy as np

CALLS = []  # how many films were scored, call by call
INTERRUPT = []  # numbers of the calls, counted over the process, that are interrupted


class Brightness:
    """Bright films move best."""

    def score(self, videos):
        CALLS.append(len(videos))
        if len(CALLS) in INTERRUPT:
            raise KeyboardInterrupt
        return videos.astype(np.float32).mean(axis=(1, 2, 3, 4))


class Indifferent:
    """All films are alike."""

    def score(self, videos):
        return np.zeros(len(videos), np.float32)


class Clumsy:
    """Gives a number a frame."""

    def score(self, videos):
        return np.zeros(videos.shape[:2], np.float32)


class Silent:
    """Is no reward."""
