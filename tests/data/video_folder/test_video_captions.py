"""Captions of a folder, in either form, and what is wrong with them in one line."""

import json
import math

import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.video_folder.captions import Entry, read_captions


def write(folder, *lines):
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_a_line_is_an_entry(tmp_path):
    write(
        tmp_path,
        {"file": "a.mp4", "caption": "A dog."},
        {"file": "b/c.png", "caption": ["One.", "Two."], "subject_type": "Animal"},
        {"file": "a.mp4", "caption": "A cat.", "start": 2, "end": 3.5},
    )
    first, second, third = read_captions(tmp_path)
    assert first == Entry(file="a.mp4", captions=("A dog.",))
    assert (first.start, first.end, first.is_image) == (0, math.inf, False)
    assert second.captions == ("One.", "Two.") and second.is_image
    assert second.subject_type == "Animal" and (third.start, third.end) == (2.0, 3.5)
    said = "One\u2028\x85\u2029two."  # line ends to Python's str.splitlines, but not to json
    line = json.dumps({"file": "a.mp4", "caption": said}, ensure_ascii=False)
    (tmp_path / "captions.jsonl").write_bytes(f"{line}\r\n".encode())
    assert [entry.captions for entry in read_captions(tmp_path)] == [(said,)]
    other = tmp_path / "other.jsonl"
    other.write_text('{"file": "z.mov", "caption": "A zoo."}\n\n')
    assert [entry.file for entry in read_captions(tmp_path, other)] == ["z.mov"]


def test_texts_beside_videos(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("deep/a.MP4", "b.jpg", "alone.mp4", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "deep" / "a.txt").write_text("A dog\nruns.\n")
    (tmp_path / "b.txt").write_text("A bee.")
    found = {entry.file: entry.captions for entry in read_captions(tmp_path)}
    assert found == {"deep/a.MP4": ("A dog\nruns.",), "b.jpg": ("A bee.",)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "a.mp4"}', "line 1: a.mp4 has no caption"),
        ('{"file": "a.mp4", "caption": " "}', "a.mp4 has no caption"),
        ('{"caption": "x"}', "file and subject_type are texts"),
        ('{"file": "a.mp4", "caption": 3}', "caption is a text or a list"),
        ('{"file": "a.mp4", "captoin": "x"}', "'captoin'; did you mean 'caption'"),
        ('{"file": "a.mp4", "caption": "x", "start": 2, "end": 1}', "0 <= start < end"),
        ("[]", "expected an object"),
        ("{", "line 1: "),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        read_captions(tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="no folder of videos"):
        read_captions(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no captions file"):
        read_captions(tmp_path, tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="no captions for .*write captions.jsonl there"):
        read_captions(tmp_path)
    write(tmp_path, *2 * [{"file": "a.mp4", "caption": "x"}])
    with pytest.raises(UserError, match="line 2: line 1 is of the same part of a.mp4"):
        read_captions(tmp_path)
