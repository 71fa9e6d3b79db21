"""`evaluate --benchmark reward`: how well a reward model tells good motion from bad."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyreels_jax.cli import flags
from skyreels_jax.cli.reward_scores import STRENGTHS, by_strength, on_films, scored
from skyreels_jax.core.errors import UserError

if TYPE_CHECKING:
    from skyreels_jax.data.loader import Part, Source
    from skyreels_jax.data.toy_film.world import Scene
    from skyreels_jax.evals.reward import ScoredPairs, Strengths
    from skyreels_jax.models.reward.load import LoadedReward
    from skyreels_jax.pipelines.source import ModelSource
    from skyreels_jax.pipelines.validate import Request

SCENES, PER_PROMPT = 32, 4
OPTIONS = ("resolution", *flags.STEPS, "dtype", "batch_size", *flags.WINDOWS)
TITLE = "The reward model on {pairs} pairs ({split}) and on twins of {scenes} {prompts} clips"


def run(args: argparse.Namespace) -> int:
    """Checks everything, then scores and reports."""
    from tqdm import tqdm

    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.preferences.preferences_dataset_builder import (
        read_preferences,
        split_names,
    )
    from skyreels_jax.data.toy_film.world import SIZE, SPLITS
    from skyreels_jax.evals.suite import load_scenes
    from skyreels_jax.models.reward.load import load_reward

    if args.pairs is None:
        raise UserError("--benchmark reward needs --pairs, which `skyreels-jax data pairs` makes")
    if args.rows < 2:
        raise UserError(f"--rows must be 2 or more, a pair, got {args.rows}")
    few = SCENES if args.prompts in SPLITS and args.num is None else args.num
    scenes = load_scenes(args.prompts, few, seed=args.seed)
    splits = split_names(args.pairs)
    split = "held_out" if "held_out" in splits else splits[0]
    source = read_preferences(args.pairs, split=split)
    model = load_reward(args.model)
    frames, height, width = source[0]["chosen"].shape[:3]
    others = _others(args.left_out)
    unseen = _unseen(others, read_preferences(args.pairs, split=split, pixels=False), source)
    for one in (model, *others.values()):
        one.card.network.check(frames, height, width)
    model.card.network.check(frames, SIZE, SIZE)  # the clips of scenes
    moving = [scene for scene in scenes if scene.moves]  # what a reward can judge without a caption
    asked = _asked(args, moving, model)
    check_writable(args.outdir)
    total = _count(source, unseen, scenes, asked)
    with tqdm(total=total, unit="film", disable=None, leave=False) as bar:
        pairs, records = scored(model, source, bar.update)
        left_out = {
            kind: {"model": place, **scored(others[place], part, bar.update)[0].summary()}
            for kind, (place, part) in unseen.items()
        }
        strengths = by_strength(model, scenes, frames, args.seed, bar.update)
        films = None if asked is None else on_films(asked, model, moving, bar.update)
    kinds = sorted(set(pairs.kinds))
    said = {
        **{"benchmark": "reward", "model": args.model, "fingerprint": model.fingerprint},
        **{"pairs": str(args.pairs), "split": split, "prompts": args.prompts, "seed": args.seed},
        "all": pairs.summary(),
        "kinds": {kind: pairs.of(kind).summary() for kind in kinds},
        "left_out": left_out,
        "strength": strengths.summary(),
        "films": films,
    }
    about = {"pairs": len(records), "split": split.replace("_", " "), "scenes": len(scenes)}
    title = TITLE.format(**about, prompts=pathlib.Path(args.prompts).name.replace("_", " "))
    _write(args, said, pairs, strengths, records, source, title=title)
    return 0


def _others(folder: pathlib.Path | None) -> "dict[str, LoadedReward]":
    """Returns the models that were trained without some kinds, by their folders."""
    from skyreels_jax.models.reward.load import load_reward

    if folder is None:
        return {}
    places = sorted(path.parent for path in folder.glob("*/export/config.json"))
    if not places:
        raise UserError(f"--left_out: {folder} holds no runs of reward models (RUN/export)")
    found = {str(place): load_reward(place) for place in places}
    for place, model in found.items():
        if not model.card.left_out:
            raise UserError(f"--left_out: {place} was trained on all kinds of its pairs")
    return found


def _unseen(
    others: "Mapping[str, LoadedReward]", records: "Source", source: "Source"
) -> "dict[str, tuple[str, Part]]":
    """Returns, for each kind that a model was not trained on, where that is, and the pairs of
    `source` of this kind. records: those of `source`, without pixels.
    """
    from skyreels_jax.data.loader import Part

    if not others:
        return {}
    kinds = np.array([records[i]["source"].decode() for i in range(len(records))])
    found: dict[str, tuple[str, Part]] = {}
    for place, model in others.items():
        for kind in model.card.left_out:
            if kind in found:
                raise UserError(f"--left_out: {found[kind][0]} and {place} both lack {kind}")
            part = Part(source=source, indices=np.flatnonzero(kinds == kind))
            if not len(part):
                raise UserError(f"--left_out: {place} lacks {kind}; no pair of --pairs is of it")
            found[kind] = (place, part)
    return found


def _asked(
    args: argparse.Namespace, scenes: "Sequence[Scene]", model: "LoadedReward"
) -> "tuple[ModelSource, Request] | None":
    """Returns the checked request of the films that the judge sees too; None without --films."""
    from skyreels_jax.data.toy_film.captions import sentences
    from skyreels_jax.evals.judge import check_size
    from skyreels_jax.pipelines import load, validate

    options = flags.given_options(args, OPTIONS)
    if args.films is None:
        for name in (*options, *flags.given_options(args, ("per_prompt",))):
            shown = "batch" if name == "batch_size" else name
            raise UserError(f"--{shown} is for films: --benchmark reward makes some with --films")
        return None
    each = PER_PROMPT if args.per_prompt is None else args.per_prompt
    if each < 2:
        raise UserError(f"--per_prompt must be 2 or more, to compare films, got {each}")
    if "resolution" in options:
        size = validate.parse_resolution(options.pop("resolution"))
        options["height"], options["width"] = size
    options.setdefault("batch_size", 16)
    if not scenes:
        raise UserError("--films: every subject of --prompts stays still; legal: some that move")
    source = load.find(args.films)
    texts = sentences(scenes, seed=args.seed)
    prompts = [text for text in texts for _ in range(each)]
    seeds = [args.seed + i for i in range(len(prompts))]
    request = source.request(prompt=prompts, seed=seeds, **options)
    size = (request.num_frames, request.height, request.width)
    check_size(*size)
    model.card.network.check(*size)
    return source, request


def _count(source, unseen, scenes, asked) -> int:
    """Returns how many films will be scored."""
    from skyreels_jax.data.preferences.distortions import DISTORTIONS

    twins = len(scenes) * (len(DISTORTIONS) * (len(STRENGTHS) - 1) + 1)
    again = sum(len(part) for _, part in unseen.values())
    made = 0 if asked is None else len(asked[1].prompts)
    return 2 * len(source) + 2 * again + twins + made


def _write(
    args: argparse.Namespace,
    said: dict[str, Any],
    pairs: "ScoredPairs",
    strengths: "Strengths",
    records: list[dict[str, Any]],
    source: "Source",
    *,
    title: str,
) -> None:
    """Writes reward.json, reward.png and reward_sheet.png into --outdir and prints the summary."""
    import imageio.v3 as iio

    from skyreels_jax.core.files import replacing, write_json
    from skyreels_jax.data.preferences.records import SIDES
    from skyreels_jax.evals.reward import reliability
    from skyreels_jax.evals.reward_plots import plot_reward
    from skyreels_jax.evals.sheet import contact_sheet

    top = pairs.probabilities.max(axis=1)
    calibration = {
        "decisive": reliability(pairs.confidence(), pairs.right()),
        "three": reliability(top, pairs.likeliest_right()),
    }
    whole = {**said, "calibration": calibration, "records": records}
    write_json(args.outdir / "reward.json", whole)
    with replacing(args.outdir / "reward.png") as path:
        plot_reward(path, pairs, strengths, said["left_out"], title=title)
    worst = np.argsort([_margin(row) for row in records])[: args.rows // 2]
    films = [source[int(i)][side] for i in worst for side in SIDES]
    captions = [
        f"{side} ({records[i]['label']}), {records[i]['kind']} {records[i]['strength']:g}: "
        f"score {records[i][side]:.2f}"
        for i in worst
        for side in SIDES
    ]
    with replacing(args.outdir / "reward_sheet.png") as path:
        iio.imwrite(path, contact_sheet(films, captions), extension=".png")
    if args.json:
        print(json.dumps(said))
        return
    print(f"{table(said)}\n")
    for name in ("reward.json", "reward.png", "reward_sheet.png"):
        print(args.outdir / name)


def _margin(row: Mapping[str, Any]) -> float:
    """Returns by how much the better clip is ahead; for a tie, how far apart they are, negated."""
    apart = row["chosen"] - row["rejected"]
    return {"better": apart, "worse": -apart, "tie": -abs(apart)}[row["label"]]


def table(said: Mapping[str, Any]) -> str:
    """Returns the summary as text."""
    head = ("right", "+-", "area", "calib.", "unseen", "strength")
    lines = [f"{'kind':<20}{'pairs':>7}" + "".join(f"{name:>9}" for name in head)]
    spearman, unseen = said["strength"]["spearman"], said["left_out"]
    rows = {**said["kinds"], "all": said["all"]}
    for kind, row in rows.items():
        numbers = [row[name] for name in ("accuracy_decisive", "accuracy_decisive_error")]
        numbers += [row["roc_area"], row["calibration_error"]]
        numbers += [unseen.get(kind, {}).get("accuracy_decisive"), spearman.get(kind)]
        shown = "".join(f"{'' if v is None else format(v, '.3f'):>9}" for v in numbers)
        lines.append(f"{kind:<20}{row['pairs']:>7}{shown}")
    every = said["all"]
    lines += [
        "",
        "right: of decisive pairs; area: under the ROC curve; calib.: calibration error; unseen:",
        "right, by a model that was not trained on the kind; strength: Spearman's correlation of",
        "strength and fall of the score",
        f"likeliest of better, worse, tie: right for {every['accuracy']:.3f} of all pairs, "
        f"calibration error {every['calibration_error_of_three']:.3f} ({every['ties']} ties)",
    ]
    if (films := said["films"]) is not None:
        same = "none" if films["same"] is None else f"{films['same']:.3f}"
        lines.append(
            f"films of {films['model']}: reward and judge prefer the same of two in {same} of "
            f"{films['pairs']} pairs (of {films['unclear']} more the judge is not clear)"
        )
    return "\n".join(lines)
