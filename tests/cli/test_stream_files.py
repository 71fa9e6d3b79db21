"""What `skyreels-jax stream` leaves of a film that is stopped: a film and a state that fit."""

import numpy as np
import pytest

from skyreels_jax.cli.stream import Job, make
from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines import fragments

WINDOWS = [np.full((count, 16, 32, 3), 40 * count, np.uint8) for count in (5, 4, 4)]


class Stream:
    """A film of `WINDOWS`; `stop` is raised before window number `at` is made or saved.

    It is its own state: `save` writes how many frames there are; after `stop` there is one if it is
    `kept`.
    """

    fps, num_frames, has_state = 12, 13, True

    def __init__(self, *, made=0, at=None, stop=None, saving=False, kept=True):
        self.kept = kept
        self.frames = sum(map(len, WINDOWS[:made]))
        self.number, self.at, self.stop, self.saving = made, at, stop, saving

    @property
    def state(self):
        return self

    @property
    def seconds(self):
        return self.frames / self.fps

    def __iter__(self):
        while self.number < len(WINDOWS):
            if self.number == self.at and not self.saving:
                self.has_state = self.kept
                raise self.stop
            self.frames += len(WINDOWS[self.number])
            self.number += 1
            yield WINDOWS[self.number - 1]

    def save(self, path):
        if self.number - 1 == self.at and self.saving:
            raise self.stop
        path.write_text(str(self.frames))


@pytest.fixture
def job(tmp_path):
    return Job(None, tmp_path / "film.mp4", tmp_path / "film.state")


def shown(path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


FULL = UserError("cannot write 'film.state': No space left on device")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), FULL])
@pytest.mark.parametrize(
    ("saving", "kept", "behind"), [(False, 9, ""), (True, 13, ", its state 0.8 s")]
)
def test_the_film_may_be_ahead_of_its_state_never_behind(job, stop, saving, kept, behind):
    lines = []
    with pytest.raises(type(stop)):
        make(job, Stream(at=2, stop=stop, saving=saving), lines.append)
    assert (shown(job.path), job.state.read_text()) == (kept, "9")
    assert lines[-1] == (
        f"{job.path} has {kept / 12:.1f} s{behind}; "
        f"go on with: skyreels-jax stream --resume {job.state}"
    )
    size = fragments.cut(job.path, 9)
    make(job._replace(size=size), Stream(made=2), lines.append)
    assert (shown(job.path), job.state.read_text()) == (13, "13")


@pytest.mark.parametrize(("kept", "state"), [(True, "9"), (False, "5")])
def test_a_state_now_and_then_is_caught_up_with_where_it_can_be(job, kept, state):
    """Every second window: the first, and at a stop the second if nothing of it is destroyed."""
    lines, job = [], job._replace(every=2)
    with pytest.raises(KeyboardInterrupt):
        make(job, Stream(at=2, stop=KeyboardInterrupt(), kept=kept), lines.append)
    assert (shown(job.path), job.state.read_text()) == (9, state)
    assert ("its state 0.4 s" in lines[-1]) != kept


def test_a_state_now_and_then_is_there_at_the_end(job, monkeypatch):
    saved = []
    monkeypatch.setattr(Stream, "save", lambda self, path: saved.append(self.frames))
    make(job._replace(every=4), Stream(), lambda line: None)
    make(job._replace(path=job.path.with_name("b.mp4"), every=2), Stream(), lambda line: None)
    assert saved == [5, 13, 5, 13]


@pytest.mark.parametrize("saving", [False, True])
def test_nothing_is_left_of_no_window(job, saving):
    with pytest.raises(UserError, match="No space"):
        make(job, Stream(at=0, stop=FULL, saving=saving), print)
    assert not list(job.path.parent.iterdir())


def test_an_old_film_stays_until_there_is_a_window(job):
    job = job._replace(overwrite=True)
    job.path.write_text("old film")
    job.state.write_text("old state")
    with pytest.raises(KeyboardInterrupt):
        make(job, Stream(at=0, stop=KeyboardInterrupt()), print)
    assert (job.path.read_text(), job.state.read_text()) == ("old film", "old state")
    with pytest.raises(KeyboardInterrupt):
        make(job, Stream(at=1, stop=KeyboardInterrupt()), print)
    assert (shown(job.path), job.state.read_text()) == (5, "5")


@pytest.mark.parametrize("after", [0, 1])
def test_what_another_program_makes_meanwhile_is_left_alone(job, monkeypatch, after):
    append, calls = fragments.append, []

    def meanwhile(path, *args, **kwargs):
        if len(calls) == after:
            with path.open("ab") as file:
                file.write(b"other")
        calls.append(path)
        return append(path, *args, **kwargs)

    monkeypatch.setattr(fragments, "append", meanwhile)
    with pytest.raises(fragments.Changed, match="stop that one, or give another --out"):
        make(job, Stream(), lambda line: None)
    assert job.path.read_bytes().endswith(b"other")


def test_the_command_names_a_film_that_is_elsewhere(job, tmp_path):
    job = job._replace(path=tmp_path / "copy of it.mp4")
    lines = []
    with pytest.raises(KeyboardInterrupt):
        make(job, Stream(at=1, stop=KeyboardInterrupt()), lines.append)
    assert lines[-1].endswith(f"--resume {job.state} --out '{job.path}'")
