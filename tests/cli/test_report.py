"""`skyreels-jax report`: a page of runs, from what they and `evaluate` wrote."""

import json

import imageio.v3 as iio
import numpy as np
import pytest

from skyreels_jax.cli.main import main
from skyreels_jax.data.toy_film.world import ATTRIBUTES


@pytest.fixture
def chain(tmp_path):
    """Two runs, the second of which was judged."""
    for name, losses in (("vae", (0.5, -0.1)), ("film", (2.0, 1.25, 0.75))):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        rows = [f"{100 * (i + 1)},{loss},600\n" for i, loss in enumerate(losses)]
        (folder / "metrics.csv").write_text("step,loss,ms_per_step\n" + "".join(rows))
    (tmp_path / "eval" / "film").mkdir(parents=True)
    shares = dict.fromkeys(ATTRIBUTES, 0.5) | {"speed": None, "mean": 0.625}
    results = {"num": 7, "adherence": shares, "films": []}
    results |= {"all_right": 0.25, "consistency": None, "quality": 23.44}
    (tmp_path / "eval" / "film" / "results.json").write_text(json.dumps(results))
    iio.imwrite(tmp_path / "eval" / "film" / "sheet.png", np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def report(chain, *argv):
    runs = [str(chain / "runs" / name) for name in ("vae", "film")]
    return main(["report", *runs, "--outdir", str(chain / "report"), *argv])


def test_a_page_with_curves_scores_and_sheets(chain, capsys):
    assert report(chain, "--evals", str(chain / "eval")) == 0
    assert capsys.readouterr().out.strip() == str(chain / "report" / "report.md")
    made = {path.name for path in (chain / "report").iterdir()}
    assert made == {"report.md", "losses.png", "scores.png", "film_sheet.png"}
    text = (chain / "report" / "report.md").read_text()
    assert "| vae | 200 | 2 | 0.5 | -0.1 |" in text and "of 7 films of each" in text
    assert "| film | 300 | 3 | 2 | 0.75 |" in text
    head, _, row = text[text.index("| films of") :].splitlines()[:3]
    told = dict(zip(head.split(" | ")[1:], row.split(" | ")[1:], strict=True))
    assert told.pop("speed") == "" and told["shot type"] == "0.500" and told["mean"] == "0.625"
    assert told["all at once"] == "0.250" and told["consistency"] == ""
    assert told["quality, dB |"] == "23.4 |" and len(told) == len(ATTRIBUTES) + 3
    for name in made - {"report.md"}:
        assert f"({name})" in text
    assert iio.imread(chain / "report" / "losses.png").shape[1] == 1660


def test_results_without_a_sheet_are_told_all_the_same(chain):
    (chain / "eval" / "film" / "sheet.png").unlink()
    assert report(chain, "--evals", str(chain / "eval")) == 0
    assert "film_sheet.png" not in (chain / "report" / "report.md").read_text()


def test_runs_may_be_called_like_the_plots(chain):
    for place in (chain / "runs", chain / "eval"):
        (place / "film").rename(place / "losses")
    run, evals = str(chain / "runs" / "losses"), str(chain / "eval")
    assert main(["report", run, "--outdir", str(chain / "report"), "--evals", evals]) == 0
    assert iio.imread(chain / "report" / "losses.png").shape[1] == 1660


def test_runs_need_no_judge(chain):
    assert report(chain) == 0
    assert {path.name for path in (chain / "report").iterdir()} == {"report.md", "losses.png"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "runs" / "vae" / "metrics.csv").unlink(), "is no training run"),
        (
            lambda root: (root / "runs" / "vae" / "metrics.csv").write_text("step,loss\n"),
            "has no losses yet",
        ),
        (
            lambda root: (root / "eval" / "film" / "results.json").write_text("{}"),
            "results of `evaluate --benchmark clips`",
        ),
    ],
)
def test_what_is_no_chain_is_one_line(chain, capsys, spoil, said):
    spoil(chain)
    assert report(chain, "--evals", str(chain / "eval")) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (chain / "report").exists()


@pytest.mark.parametrize("missing", ["num", "adherence", "all_right", "consistency", "quality"])
def test_results_without_what_the_page_shows_are_one_line(chain, capsys, missing):
    found = chain / "eval" / "film" / "results.json"
    results = json.loads(found.read_text())
    del results[missing]
    found.write_text(json.dumps(results))
    assert report(chain, "--evals", str(chain / "eval")) == 2
    assert "results of `evaluate --benchmark clips`" in capsys.readouterr().err


def test_two_runs_of_one_name_are_refused(chain, capsys):
    run = str(chain / "runs" / "vae")
    assert main(["report", run, run, "--outdir", str(chain / "report")]) == 2
    assert "two runs have one name" in capsys.readouterr().err
