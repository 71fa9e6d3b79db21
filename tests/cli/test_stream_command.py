"""`skyreels-jax stream`: films that grow, stop and go on; bad input leaves nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from skyreels_jax.cli.main import main
from skyreels_jax.pipelines import fragments
from skyreels_jax.pipelines.film import Film
from skyreels_jax.pipelines.source import ModelSource
from skyreels_jax.pipelines.state import KEY

pytestmark = pytest.mark.usefixtures("encoded_once")

PROMPT, OTHER = "A large red circle moves left.", "A small blue square jumps."
SMALL = ("--resolution", "16x32", "--inference_steps", "1")


@pytest.fixture
def stream(forcing_folder, tmp_path, capsys):
    """Runs the command; returns (exit code, stdout lines, stderr)."""

    def run(*argv):
        model = [] if "--resume" in argv else ["--model_id", str(forcing_folder), *SMALL]
        code = main(["stream", *model, *map(str, argv)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text(f"0: {PROMPT}\n1: {OTHER}\n")
    return path


def frames(path) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def interrupt(monkeypatch, *, after: int, spoil: bytes = b"", by: int = signal.SIGINT) -> None:
    """Makes a signal come while window number `after` is written, `spoil` of it already."""
    append, calls = fragments.append, []

    def interrupted(path, *args, **kwargs):
        if len(calls) == after:
            monkeypatch.setattr(fragments, "append", append)
            if path.exists():
                with path.open("ab") as file:
                    file.write(spoil)
            if by == signal.SIGINT:  # which workers of pytest-xdist ignore
                raise KeyboardInterrupt
            os.kill(os.getpid(), by)
        calls.append(path)
        return append(path, *args, **kwargs)

    monkeypatch.setattr(fragments, "append", interrupted)


def test_a_story(stream, story, tmp_path):
    film = tmp_path / "new" / "film.mp4"
    code, out, err = stream("--prompts", story, "--seconds", "1.3", "--out", film)
    assert (code, out) == (0, [str(film)])
    assert frames(film).shape == (17, 16, 32, 3)  # 9 + 4 + 4: no less than 1.3 s
    assert sorted(p.name for p in film.parent.iterdir()) == ["film.mp4", "film.state"]
    lines = err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "0.8 s of 1.4 s",
        "1.1 s of 1.4 s",
        "1.4 s of 1.4 s",
    ]
    assert re.search(r"[\d.]+ seconds made a second", lines[0])


def test_sigterm_stops_as_ctrl_c_does(stream, story, tmp_path, monkeypatch):
    film, state = tmp_path / "film.mp4", tmp_path / "film.state"
    flags = ("--prompts", story, "--num_frames", "17", "--state_every", "9")
    interrupt(monkeypatch, after=2, by=signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        stream(*flags, "--out", film)
    assert len(frames(film)) == 13
    assert stream("--resume", state)[0] == 0 and len(frames(film)) == 17
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("carry", ["pixels", "latents"])
def test_a_stopped_film_goes_on(stream, story, tmp_path, monkeypatch, carry):
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    flags = ("--prompts", story, "--num_frames", "17", "--crossfade", "0.4", "--carry", carry)
    assert stream(*flags, "--out", whole)[0] == 0
    interrupt(monkeypatch, after=2, spoil=b"\0\0\1\0moof half a window")
    code, out, err = stream(*flags, "--out", film)
    assert (code, out) == (130, [])
    state = tmp_path / "film.state"
    assert f"go on with: skyreels-jax stream --resume {state}\n" in err
    assert whole.read_bytes().startswith(film.read_bytes()) and len(frames(film)) == 13
    with film.open("ab") as file:  # and what a crash would leave
        file.write(b"\0\0\1\0moof half a window")
    code, out, _ = stream("--resume", state)
    assert (code, out) == (0, [str(film)])
    assert film.read_bytes() == whole.read_bytes()
    code, _, err = stream("--resume", state)
    assert code == 2 and "is complete (17 frames)" in err
    assert film.read_bytes() == whole.read_bytes()


def test_a_film_goes_on_from_a_state_of_some_windows_ago(stream, tmp_path, monkeypatch):
    whole, film, state = (tmp_path / name for name in ("whole.mp4", "film.mp4", "film.state"))
    flags = ("--prompt", PROMPT, "--num_frames", "21", "--state_every", "3", "--carry", "latents")
    assert stream(*flags, "--out", whole)[0] == 0
    interrupt(monkeypatch, after=2)
    code, _, err = stream(*flags, "--out", film)
    assert code == 130 and "has 1.1 s, its state 0.8 s; go on with" in err
    assert len(frames(film)) == 13
    code, _, err = stream("--resume", state, "--state_every", "2")
    assert code == 0 and err.splitlines()[0].startswith("1.1 s of 1.8 s")
    assert film.read_bytes() == whole.read_bytes()
    assert "is complete" in stream("--resume", state)[2]


def test_a_causal_film_goes_on_from_its_cache(stream, causal_folder, story, tmp_path, monkeypatch):
    whole, film = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    model = ("--model_id", causal_folder, "--sink_frames", "2")
    flags = (*model, "--prompts", story, "--num_frames", "29")
    code, _, err = stream(*flags, "--out", whole)
    times = [line.partition(" ")[0] for line in err.splitlines()]
    assert (code, times) == (0, ["0.4", "1.1", "1.8", "2.4"])  # 5 + 8 + 8 + 8 frames
    interrupt(monkeypatch, after=2, spoil=b"\0\0\1\0moof half a block")
    assert stream(*flags, "--out", film)[0] == 130
    assert whole.read_bytes().startswith(film.read_bytes()) and len(frames(film)) == 13
    assert stream("--resume", tmp_path / "film.state")[0] == 0
    assert film.read_bytes() == whole.read_bytes()
    code, _, err = stream("--resume", tmp_path / "film.state", "--carry", "latents")
    assert code == 2 and "leave out --carry" in err


def test_a_film_without_end_is_stopped_and_ended(stream, tmp_path, monkeypatch):
    film, state = tmp_path / "film.mp4", tmp_path / "film.state"
    interrupt(monkeypatch, after=3)
    code, _, err = stream("--prompt", PROMPT, "--out", film)
    assert code == 130 and "0.8 s, " in err and len(frames(film)) == 17
    copy = shutil.copy(film, tmp_path / "copy.mp4")
    interrupt(monkeypatch, after=0)
    code, _, err = stream("--resume", state, "--out", copy)
    assert code == 130 and f"--resume {state} --out {copy}\n" in err
    code, out, _ = stream("--resume", state, "--seconds", "1.6", "--out", copy)
    assert (code, out) == (0, [str(copy)])
    assert len(frames(copy)) == 21 and len(frames(film)) == 17


def test_stopped_before_the_first_window(stream, tmp_path, monkeypatch):
    interrupt(monkeypatch, after=0)
    before = sorted(tmp_path.iterdir())
    code, _, err = stream("--prompt", PROMPT, "--out", tmp_path / "film.mp4")
    assert (code, err) == (130, "skyreels-jax: interrupted\n")
    assert sorted(tmp_path.iterdir()) == before


def test_a_video_is_continued_from_image_to_image(stream, tmp_path, monkeypatch):
    clip = np.random.default_rng(0).integers(0, 256, (11, 16, 32, 3), np.uint8)
    video = Film(frames=clip, fps=12).save(tmp_path / "clip.mp4")
    end = tmp_path / "end.png"
    PIL.Image.fromarray(clip[3]).save(end)
    film, whole = tmp_path / "film.mp4", tmp_path / "whole.mp4"
    flags = ("--prompt", PROMPT, "--video_path", video, "--end_image", end, "--num_frames", "13")
    code, _, err = stream(*flags, "--out", whole)
    assert code == 0 and "1.2 s of 1.6 s" in err and len(frames(whole)) == 11 + 8
    interrupt(monkeypatch, after=3)
    assert stream(*flags, "--out", film)[0] == 130
    end.unlink()
    assert stream("--resume", tmp_path / "film.state")[0] == 0
    assert film.read_bytes() == whole.read_bytes()


def test_films_are_not_replaced_unasked(stream, tmp_path):
    film = tmp_path / "film.mp4"
    flags = ("--prompt", PROMPT, "--num_frames", "5", "--out", film)
    assert stream(*flags)[0] == 0
    before = film.read_bytes()
    code, _, err = stream(*flags, "--seed", "1")
    assert code == 2 and "exists; give --overwrite, another --out, or go on with --resume" in err
    assert film.read_bytes() == before
    assert stream(*flags, "--seed", "1", "--overwrite")[0] == 0
    assert film.read_bytes() != before


@pytest.fixture
def refused(stream, tmp_path, monkeypatch):
    """Runs the command where weights must not be loaded; returns the one line of a refusal."""

    def run(*argv) -> str:
        monkeypatch.setattr(ModelSource, "load", lambda *_, **__: pytest.fail("weights loaded"))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, out, err = stream(*argv)
        assert (code, out, err.count("\n")) == (2, [], 1), err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return err

    return run


GOOD = ["--prompt", PROMPT, "--out", "film.mp4"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", ""], "a prompt is missing or empty"),
        ([*GOOD, "--num_frames", "12"], "num_frames 12 is not 4k+1; nearest legal: 9 or 13"),
        ([*GOOD, "--num_frames", "17", "--seconds", "2"], "num_frames or seconds, not both"),
        ([*GOOD, "--seconds", "0"], "seconds 0 is out of range; legal: more than 0"),
        ([*GOOD, "--seconds", "nan"], "seconds nan is out of range"),
        ([*GOOD, "--base_num_frames", "10"], "base_num_frames 10 is not 4k+1; nearest legal: 9 or"),
        ([*GOOD, "--base_num_frames", "0"], "base_num_frames 0 is out of range; legal: 1 to"),
        ([*GOOD, "--causal_block_size", "0"], "causal_block_size 0 is out of range; legal: 1 to"),
        ([*GOOD, "--teacache_thresh", "0.3"], "teacache_thresh does nothing without teacache"),
        ([*GOOD, "--base_num_frames", "1"], "base_num_frames 1 leaves nothing to make"),
        ([*GOOD, "--overlap_history", "9"], "overlap_history 9 must be less than base_num_frames"),
        ([*GOOD, "--overlap_history", "6"], "overlap_history 6 is not 4k+1; nearest legal: 5 or 9"),
        ([*GOOD, "--causal_block_size", "2"], "not a multiple of causal_block_size 2; nearest"),
        (
            [*GOOD, "--num_frames", "29", "--causal_block_size", "3", "--overlap_history", "1"],
            "2 latent frames for the last window, not a multiple of causal_block_size 3; "
            "nearest legal: 25 or 33",
        ),
        ([*GOOD, "--solver", "heun"], "solver 'heun' is not one of unipc, euler"),
        ([*GOOD, "--schedule", "karras"], "schedule 'karras' is not one of diffusers, official"),
        ([*GOOD, "--state_every", "0"], "state_every 0 is out of range; legal: 1 and more"),
        ([*GOOD, "--ar_step", "-1"], "ar_step -1 is out of range; legal: 0 to 1000"),
        ([*GOOD, "--addnoise_condition", "1000"], "addnoise_condition 1000 is out of range"),
        ([*GOOD, "--carry", "frames"], "carry 'frames' is not one of pixels, latents"),
        ([*GOOD, "--carry", "cache"], "legal: pixels, latents, or a causal model"),
        ([*GOOD, "--sink_frames", "2"], "sink_frames 2 are frames that a cache never drops"),
        ([*GOOD, "--crossfade", "-1"], "crossfade -1 is out of range"),
        ([*GOOD, "--end_image", "/absent.png", "--seconds", "2"], "cannot read image"),
        ([*GOOD, "--image", "/absent.png"], "cannot read image"),
        ([*GOOD, "--video_path", "/absent.mp4"], "cannot read video '/absent.mp4': no such file"),
        (["--prompts", "/absent.txt"], "cannot read prompts from '/absent.txt'"),
        ([*GOOD[:2], "--out", "film.gif"], "cannot let a film grow as 'film.gif'; legal"),
        ([*GOOD[:2], "--out", "/dev/null/film.mp4"], "cannot write to '/dev/null'"),
        (["--resume", "/absent.state"], "cannot read the state '/absent.state': no such file"),
    ],
)
def test_requests(refused, argv, message):
    assert message in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ar_step", "1"], "legal: 0, or carry pixels or latents"),
        (["--causal_block_size", "4"], "legal: 2, or carry pixels or latents"),
        (["--num_frames", "25"], "nearest legal: 21 or 29"),
        (["--teacache"], "legal: no teacache, or carry pixels or latents"),
        (["--carry", "frames"], "carry 'frames' is not one of cache, pixels, latents"),
    ],
)
def test_requests_to_causal_models(refused, causal_folder, argv, message):
    assert message in refused(*GOOD, "--model_id", causal_folder, *argv)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", [], "holds no prompt"),
        (f"{PROMPT}\n{OTHER}\n", [], "2 prompts cannot share a film without end"),
        (f"0: {PROMPT}\n{OTHER}\n", [], "has lines 'SECOND: PROMPT' and this one"),
        (f"1: {PROMPT}\n", [], "the first prompt starts at 1 s; legal: 0"),
        (f"0: {PROMPT}\n9: {OTHER}\n", ["--seconds", "5"], "starts at 9 s of a film of 5.08333 s"),
        (f"0: {PROMPT}\n1: {'circle ' * 600}\n", [], "has 601 tokens; at most 512"),
        (
            f"\ufeff0: {PROMPT}\n0.4: {OTHER}\n0.9: {PROMPT}\n",
            [],
            "small blue square jumps.' would not be shown: it holds from 0.4 s to 0.9 s, and "
            "windows show what holds in their middle, here at 0.375 and 0.9167 s",
        ),
        (f"0: {PROMPT}\n1.3: {OTHER}\n", ["--num_frames", "17"], "from 1.3 s, and windows show"),
    ],
)
def test_stories(refused, tmp_path, text, flags, message):
    path = tmp_path / "story.txt"
    path.write_text(text)
    assert message in refused("--prompts", path, *flags)


def test_images_and_videos(refused, tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)
    video = Film(frames=clip, fps=12).save(tmp_path / "clip.mp4")
    good, bad, upright = (tmp_path / f"{name}.png" for name in ("good", "bad", "upright"))
    PIL.Image.fromarray(clip[0]).save(good)
    PIL.Image.fromarray(clip[0].transpose(1, 0, 2)).save(upright)
    bad.write_bytes(good.read_bytes()[:60])
    half = tmp_path / "half.mp4"
    half.write_bytes(video.read_bytes()[:-20])
    seconds = ("--seconds", "2")
    assert "fewer than overlap_history 5; nearest legal: 1" in refused(*GOOD, "--video_path", video)
    assert "cannot read video" in refused(*GOOD, "--video_path", half)
    assert "cannot read image" in refused(*GOOD, "--image", bad)
    assert "cannot read image" in refused(*GOOD, "--end_image", bad, *seconds)
    line = refused(*GOOD, "--end_image", upright, *seconds)
    assert "end_image 16x32 stands and the film 32x16 lies; give one of about 32:16" in line
    assert "give num_frames or seconds with end_image" in refused(*GOOD, "--end_image", good)
    both = ("--image", good, "--video_path", video, "--overlap_history", "1")
    assert "give image or video_path" in refused(*GOOD, *both)
    rate = ("--video_path", video, "--overlap_history", "1", "--fps", "24")
    assert "the video has 12 frames a second and the film 24; give fps 12" in refused(*GOOD, *rate)
    same = ("--video_path", video, "--overlap_history", "1", "--out", video, "--overwrite")
    assert "is the video that the film continues" in refused("--prompt", PROMPT, *same)
    (tmp_path / "folder.mp4").mkdir()
    folder = ("--prompt", PROMPT, "--out", tmp_path / "folder.mp4", "--overwrite")
    assert "folder.mp4' exists; give" in refused(*folder)


def _said(state, *, film=(), **changes) -> str:
    """Returns what a state says, with some of it changed."""
    with safe_open(state, framework="numpy") as file:
        said = json.loads(file.metadata()[KEY]) | changes
    return json.dumps({**said, "film": {**said["film"], **dict(film)}})


def test_states(stream, refused, forcing_folder, micro_folder, tmp_path, monkeypatch):
    film, state = tmp_path / "film.mp4", tmp_path / "film.state"
    with monkeypatch.context() as patch:
        interrupt(patch, after=1)
        assert stream("--prompt", PROMPT, "--out", film)[0] == 130
    assert "leave out --seed (legal: --seconds, --out, --state_every" in refused(
        "--resume", state, "--seed", "3"
    )
    assert "leave out --overwrite" in refused("--resume", state, "--overwrite")
    assert "0.75 seconds are made already" in refused("--resume", state, "--seconds", "0.5")
    assert "seconds inf is out of range" in refused("--resume", state, "--seconds", "inf")
    absent = ("--out", tmp_path / "absent.mp4")
    assert "cannot cut" in refused("--resume", state, *absent)
    assert "is no diffusion-forcing model" in refused("--resume", state, "--model_id", micro_folder)
    model = shutil.copytree(forcing_folder, tmp_path / "model")
    weights = next((model / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    line = refused("--resume", state, "--model_id", model)
    assert "give the model it was begun with" in line and str(forcing_folder) in line
    bad = tmp_path / "bad.state"
    for said, message in [
        ("[1]", "damaged state (its header is no object)"),
        ("[" * 10**5, "is not the state of a film"),
        (_said(state, index=1e400), "damaged state"),
        (_said(state, index=-1), "its parts are of different films"),
        (_said(state, frames=13), "its parts are of different films"),
        (_said(state, film={"inference_steps": 2}), "have inference_steps 2, its recipe 1"),
    ]:
        save_file({}, bad, metadata={KEY: said})
        assert message in refused("--resume", bad, "--out", film)
    for content in (b"", b"no state", state.read_bytes()[:-5]):
        bad.write_bytes(content)
        assert "is not the state of a film" in refused("--resume", bad)
    bad.write_bytes(
        state.read_bytes().replace(b'overlap_history\\": 5', b'overlap_history\\": 6', 2)
    )
    assert "damaged state (overlap_history 6 is not 4k+1" in refused("--resume", bad)
    other = tmp_path / "other.mp4"
    fragments.append(other, np.zeros((5, 16, 32, 3), np.uint8), 12, at=0)
    assert "ends after 9 frames (it has 5)" in refused("--resume", state, "--out", other)
    wide = tmp_path / "wide.mp4"
    fragments.append(wide, np.zeros((9, 16, 64, 3), np.uint8), 12, at=0)
    fragments.append(wide, np.zeros((4, 16, 64, 3), np.uint8), 12, at=9)
    assert "another size, rate or encoder" in refused("--resume", state, "--out", wide)


def test_what_does_not_go_on_is_not_cut(stream, tmp_path, monkeypatch):
    film, state = tmp_path / "film.mp4", tmp_path / "film.state"
    interrupt(monkeypatch, after=1)
    assert stream("--prompt", PROMPT, "--out", film)[0] == 130
    with film.open("ab") as file:
        file.write(b"\0\0\1\0moof half a window")
    before, odd = film.read_bytes(), tmp_path / "odd.state"
    with safe_open(state, framework="numpy") as file:
        save_file({"prefix": file.get_tensor("prefix")[:, 1:]}, odd, metadata=file.metadata())
    for flags, message in (
        (("--resume", state, "--mesh", "data=3"), "does not fit 8 devices"),
        (("--resume", odd, "--out", film), "the state is damaged: it holds"),
    ):
        code, _, err = stream(*flags)
        assert code == 2 and message in err
        assert film.read_bytes() == before


def test_a_text_model_makes_no_long_films(refused, micro_folder):
    argv = ["--model_id", micro_folder, "--prompt", PROMPT, "--base_num_frames", "9"]
    line = refused(*argv)
    assert "is no diffusion-forcing model" in line and "SkyReels-V2-DF" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder(refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write to" in refused(*GOOD[:2], "--out", tmp_path / "locked" / "film.mp4")


@pytest.mark.slow
@pytest.mark.parametrize("carry", ["pixels", "latents"])
def test_a_killed_process_loses_one_window(forcing_folder, tmp_path, carry):
    """kill -9 in the middle of a window; the film that goes on is the same file."""
    command = [sys.executable, "-m", "skyreels_jax", "stream"]
    what = ["--model_id", str(forcing_folder), *SMALL, "--prompt", PROMPT, "--num_frames", "1201"]
    whole, film, state = (tmp_path / name for name in ("whole.mp4", "film.mp4", "film.state"))
    killed = subprocess.Popen([*command, *what, "--carry", carry, "--out", str(film)])
    while not state.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)
    killed.kill()
    assert killed.wait() == -9
    assert 9 <= len(frames(film)) < 1201
    subprocess.run([*command, "--resume", str(state)], check=True)
    subprocess.run([*command, *what, "--carry", carry, "--out", str(whole)], check=True)
    # Not the bytes: x264 alone rarely gives the same frames another stream (docs/log.md).
    assert np.abs(frames(film).astype(int) - frames(whole)).max() <= 3


def test_generate_makes_causal_films_again(causal_folder, tmp_path):
    out = ["--outdir", str(tmp_path)]
    flags = ["--prompt", PROMPT, "--num_frames", "13", "--sink_frames", "2"]
    assert main(["generate", "--model_id", str(causal_folder), *SMALL, *flags, *out]) == 0
    film = next(tmp_path.glob("*.mp4"))
    before, recipe = frames(film), film.with_suffix(".json")
    made = json.loads(recipe.read_text())
    assert [made[name] for name in ("carry", "sink_frames", "causal_block_size")] == ["cache", 2, 2]
    assert main(["generate", "--from", str(recipe), *out, "--overwrite"]) == 0
    assert np.abs(frames(film).astype(int) - before).max() <= 2


def test_generate_makes_long_films_and_makes_them_again(forcing_folder, tmp_path, capsys):
    end = tmp_path / "end.png"
    PIL.Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(end)
    flags = [
        "--prompt",
        PROMPT,
        "--num_frames",
        "17",
        "--end_image",
        str(end),
        "--carry",
        "latents",
    ]
    out = ["--outdir", str(tmp_path / "out")]
    assert main(["generate", "--model_id", str(forcing_folder), *SMALL, *flags, *out]) == 0
    film = next((tmp_path / "out").glob("*.mp4"))
    recipe = film.with_suffix(".json")
    assert len(frames(film)) == 17
    before, made = frames(film), json.loads(recipe.read_text())
    assert (made["base_num_frames"], made["overlap_history"], made["carry"]) == (9, 5, "latents")
    assert main(["generate", "--from", str(recipe), *out, "--overwrite"]) == 0
    assert np.abs(frames(film).astype(int) - before).max() <= 2
    PIL.Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(end)
    capsys.readouterr()
    assert main(["generate", "--from", str(recipe), *out, "--overwrite"]) == 2
    assert "end.png' is not the end_image that film was made of" in capsys.readouterr().err
