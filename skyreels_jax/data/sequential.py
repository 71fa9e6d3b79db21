"""TFDS datasets that are written as they are generated: in order, in constant memory.

TFDS itself gathers all examples of a split before it writes the first, to shuffle them, and needs
TensorFlow for more than 1,000 MiB of them. Whoever reads a data set here shuffles it (loader.py).
"""

import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from skyreels_jax.core.errors import UserError

SHARD_BYTES = 256 * 2**20  # of clips, before they are compressed
TOGETHER = 16  # examples between two updates of the description on disk


class SequentialBuilder(tfds.core.GeneratorBasedBuilder):
    """A builder whose `_split_generators` returns {split: iterator over (key, example)}.

    Preparing raises `UserError` for two examples of one key, and for a split without any.
    """

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        del download_config
        info = self._info()  # of the folder aside, in which the files are written
        size = sum(
            np.prod(feature.shape, dtype=int)
            for feature in info.features.values()
            if isinstance(feature, tfds.features.Tensor)
        )
        writer = tfds.core.SequentialWriter(
            info,
            max_examples_per_shard=max(1, int(SHARD_BYTES // max(size, 1))),
            file_format="array_record",
        )
        generators = self._split_generators(dl_manager)
        writer.initialize_splits(list(generators))
        for split, examples in generators.items():
            distinct = _distinct(split, examples)
            told = iter(tqdm(distinct, desc=f"{self.name} {split}", unit=" examples"))
            while some := list(itertools.islice(told, TOGETHER)):
                writer.add_examples({split: some})
            writer.close_splits([split])
        self.info.set_splits(tfds.core.SplitDict(list(info.splits.values())))


def _distinct(split: str, examples: Iterable[tuple[Hashable, Any]]) -> Iterator[Any]:
    """Yields examples without their keys."""
    seen = set()
    for key, example in examples:
        if key in seen:
            raise UserError(f"two examples of {split!r} are called {key!r}; legal: one")
        seen.add(key)
        yield example
    if not seen:
        raise UserError(f"nothing is left to write into {split!r}")
