"""Own videos and their features, made once."""

import pytest


@pytest.fixture(scope="session")
def own_videos(tmp_path_factory):
    """A folder of videos and images with captions."""
    from own_videos import write_own_videos

    return write_own_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def own_features(own_videos, micro_folder, tmp_path_factory):
    """What the micro model makes of them."""
    from own_videos import encode

    out = tmp_path_factory.mktemp("features") / "set"
    assert encode(own_videos, micro_folder, out) == 0
    return out
