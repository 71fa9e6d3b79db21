"""Frame rates as the paper makes them alike."""

import numpy as np
import pytest

from skyreels_jax.data.video_folder.rate import nearest, normal_rate


@pytest.mark.parametrize(
    ("fps", "nominal", "exact"),
    [
        (24.0, 24, 24.0),
        (25.0, 24, 24.0),  # 25 mod 16 = 9, mod 24 = 1
        (30.0, 24, 24.0),
        (32.0, 16, 16.0),
        (48.0, 24, 24.0),  # ties
        (60.0, 24, 24.0),
        (50.0, 24, 24.0),
        (20.0, 16, 16.0),
        (16.0, 16, 16.0),
        # As numbers 23.976 mod 24 is nearly 24: a film would lose a third of its frames.
        (24000 / 1001, 24, 24000 / 1001),
        (30000 / 1001, 24, 24000 / 1001),
        (16000 / 1001, 16, 16000 / 1001),
    ],
)
def test_the_nearest_rate_below(fps, nominal, exact):
    rate = normal_rate(fps)
    assert rate.nominal == nominal and rate.exact == pytest.approx(exact)


@pytest.mark.parametrize("fps", [0.0, 8.0, 15.0, 15.9])
def test_slow_films_have_none(fps):
    assert normal_rate(fps) is None


def test_frames_are_left_out_by_their_time_stamps():
    thirty = np.arange(31) / 30
    assert nearest(thirty, 24.0).tolist()[:6] == [0, 1, 2, 4, 5, 6]
    assert len(nearest(thirty, 24.0)) == 25 and nearest(thirty, 24.0)[-1] == 30
    same = np.arange(97) * 1001 / 24000
    assert nearest(same, 24000 / 1001).tolist() == list(range(97))
    # A film that stands still for a while shows the frame that was shown then.
    gap = np.array([0.0, 0.1, 0.52, 0.6])
    assert nearest(gap, 10.0).tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert nearest(np.zeros(1), 24.0).tolist() == [0]
