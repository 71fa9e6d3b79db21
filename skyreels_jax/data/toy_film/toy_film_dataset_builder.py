"""ToyFilm as a TFDS dataset: clips with captions, in array_record files, without TensorFlow.

    builder = toy_film(data_dir, num_clips=4096, num_frames=33)
    builder.download_and_prepare()
    source = builder.as_data_source(split="train")  # for grain.MapDataset.source

Everything is a function of the configuration: the same one gives the same clips on any machine.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.sequential import SequentialBuilder
from skyreels_jax.data.toy_film import world
from skyreels_jax.data.toy_film.captions import sentence, structured
from skyreels_jax.data.toy_film.faults import sample_fault
from skyreels_jax.data.toy_film.render import render
from skyreels_jax.data.toy_film.turns import render_turn, sample_turn

VALIDATION_SEED = 1_000_000_000  # seeds from here on: the same captions as training, other films
EVAL_SHARE = 16  # one clip in each evaluation split for this many of training


@dataclasses.dataclass(eq=False)
class ToyFilmConfig(tfds.core.BuilderConfig):
    """What is rendered.

    num_clips: clips in "train". num_frames: frames of each, 4k + 1. num_sentences: paraphrases of
    each caption. seed: of the first clip; seed ranges that do not overlap share no film.
    turns: share of the films of training scenes that turn into another (`turns.py`).
    faults: share of the films of training scenes that move badly (`faults.py`).
    rates: frames a second; where there are several, clips have them in turn, by their seed.
    """

    num_clips: int = 4096
    num_frames: int = 33
    num_sentences: int = 4
    seed: int = 0
    turns: float = 0.0
    faults: float = 0.0
    rates: tuple[int, ...] = (world.FPS,)


class Builder(SequentialBuilder):
    """ToyFilm; world.py says what happens in it.

    Splits: "train"; "validation" (captions as in training, other films); "held_out" (attribute
    tuples never in training); "held_out_combinations" (pairs of attribute values never together in
    training).
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"1.0.0": "First release.", "2.0.0": "Clips in the order of their seeds."}
    BUILDER_CONFIGS = [ToyFilmConfig(name="default", description="4,096 clips of 33 frames")]

    def _info(self) -> tfds.core.DatasetInfo:
        video = tfds.features.Tensor(
            shape=(self.builder_config.num_frames, world.SIZE, world.SIZE, 3),
            dtype=np.uint8,
            encoding="zlib",  # flat colours: about a tenth of the size, 1-2 ms to decode
        )
        features = {
            "video": video,
            "sentences": tfds.features.Sequence(tfds.features.Text()),
            "structured": tfds.features.Text(doc="caption in the SkyCaptioner schema, as JSON"),
            "seed": np.int64,
        }
        if self.builder_config.turns:  # the first frame of the new scene, or 0; captions tell it
            features["turn"] = np.int64
        if len(self.builder_config.rates) > 1:
            features["fps"] = np.int64
        features |= {name: tfds.features.Text() for name in world.ATTRIBUTES}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description="Short procedural films with captions, made to be judged by arithmetic.",
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        few = max(1, config.num_clips // EVAL_SHARE)
        return {
            "train": self._generate_examples("train", config.seed, config.num_clips),
            "validation": self._generate_examples("train", VALIDATION_SEED + config.seed, few),
            "held_out": self._generate_examples("held_out", config.seed, few),
            "held_out_combinations": self._generate_examples(
                "held_out_combinations", config.seed, few
            ),
        }

    def _generate_examples(
        self, split: str, first: int, count: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        for seed in range(first, first + count):
            scene, turn = world.sample_scene(seed, split), None
            fps = config.rates[seed % len(config.rates)]
            if split == "train":
                turn = sample_turn(seed, config.num_frames, share=config.turns)
            if turn is None:
                video = render(scene, config.num_frames, fps=fps)
            else:
                scene, video = turn.after, render_turn(turn, config.num_frames)
            if split == "train" and (fault := sample_fault(seed, share=config.faults)):
                video = fault.of(video)
            yield (
                seed,
                {
                    "video": video,
                    "sentences": [sentence(scene, i) for i in range(config.num_sentences)],
                    "structured": json.dumps(structured(scene)),
                    "seed": seed,
                    **({"turn": turn.frame if turn else 0} if config.turns else {}),
                    **({"fps": fps} if len(config.rates) > 1 else {}),
                    **world.attributes(scene),
                },
            )


def toy_film(
    data_dir: str | os.PathLike[str],
    *,
    num_clips: int = 4096,
    num_frames: int = 33,
    num_sentences: int = 4,
    seed: int = 0,
    turns: float = 0.0,
    faults: float = 0.0,
    rates: tuple[int, ...] = (world.FPS,),
) -> Builder:
    """Returns the builder of one configuration; `download_and_prepare()` renders what is missing.

    Raises `UserError` for counts and rates that are not positive, frames that are not 4k + 1,
    shares that are none, and films that turn at other rates than the world's own.
    """
    if min(num_clips, num_frames, num_sentences) < 1 or num_frames % 4 != 1 or seed < 0:
        raise UserError(
            "ToyFilm needs num_clips >= 1, num_sentences >= 1, seed >= 0 and num_frames = 4k + 1"
        )
    for name, share in {"turns": turns, "faults": faults}.items():
        if not 0 <= share <= 1 or (share and num_frames < 5):
            raise UserError(f"{name} is a share of films, 0 to 1, and these have 5 frames or more")
    own = rates == (world.FPS,)
    if not rates or min(rates) < 1 or (turns and not own):
        raise UserError(
            f"rates are frames a second, 1 or more; films with turns have {world.FPS}, got {rates}"
        )
    fps = "" if own else f"-{'_'.join(map(str, rates))}fps"
    turning = f"-turns{turns:g}" if turns else ""
    faulty = f"-faults{faults:g}" if faults else ""
    config = ToyFilmConfig(
        name=f"{num_clips}x{num_frames}x{num_sentences}-{seed}{turning}{faulty}{fps}",
        description=f"{num_clips} clips of {num_frames} frames",
        num_clips=num_clips,
        num_frames=num_frames,
        num_sentences=num_sentences,
        seed=seed,
        turns=turns,
        faults=faults,
        rates=rates,
    )
    return Builder(data_dir=os.fspath(data_dir), config=config, file_format="array_record")
