"""A run of a few numbers, whose randomness shows in its weights.

python tests/training/toy_run.py FOLDER STEPS SAVE_EVERY trains it on one device, and prints the
sample numbers of every batch, each line after `BATCH`.
"""

import dataclasses
import functools
import os
import pathlib
import signal
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from skyreels_jax.objectives.base import LossOutput
from skyreels_jax.parallel.mesh import make_mesh
from skyreels_jax.parallel.placement import Placement
from skyreels_jax.pipelines.cache import enable_compilation_cache
from skyreels_jax.training.config import DataConfig, OptimizerConfig, StageConfig, TrainConfig
from skyreels_jax.training.loop import fit
from skyreels_jax.training.optimizer import make_optimizer
from skyreels_jax.training.state import abstract_state, init_state
from skyreels_jax.training.step import make_train_step

BATCH = "batch: "
RULES = (("kernel", PartitionSpec(None, "fsdp")), ("bias", PartitionSpec("fsdp")))


class Numbers:
    """Samples that say who they are."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        return {"x": rng.standard_normal(4).astype(np.float32), "index": np.int32(index)}


class Jitter(grain.transforms.RandomMap):
    """A random choice of the loader."""

    def random_map(self, element, rng):
        return {**element, "x": element["x"] + rng.standard_normal(4).astype(np.float32)}


class Watched:
    """An iterator that shows what it gives, with the position of the one inside."""

    def __init__(self, inner, look):
        self.inner, self.look = inner, look
        self.get_state, self.set_state = inner.get_state, inner.set_state

    def __iter__(self):
        return self

    def __next__(self):
        return self.look(next(self.inner))


def objective(model, batch, key, *, frozen=None):
    """Randomness of loader and step both show in the parameters."""
    x = batch["x"] + jax.random.normal(key, batch["x"].shape)
    error = jnp.mean(jnp.square(model(x)), axis=-1)
    order = jnp.sum(batch["index"] * jnp.arange(len(error))).astype(jnp.float32)
    return LossOutput(error.sum(), jnp.float32(len(error)), {"order": order})


def config(steps, *, batches=(4, 2), **options):
    stages = (
        StageConfig(steps=7, batch=batches[0]),
        StageConfig(steps=max(steps - 7, 0), batch=batches[1]),
    )
    optimizer = OptimizerConfig(warmup_steps=2, adam_learning_rate=0.01, learning_rate=0.01)
    return TrainConfig(
        out="unused",
        model=None,
        objective=None,
        stages=stages,
        optimizer=optimizer,
        ema_decay=0.9,
        **{
            "kind": "vae",
            "data": DataConfig(),
            "writers": (),
            "log_every": 3,
            "save_every": 100,
            **options,
        },
    )


def run(
    folder, settings, *, seen=None, stop_after=None, stop_by=signal.SIGTERM, until=None, sample=None
):
    """Trains the toy on `settings.mesh`; `seen` collects the sample numbers of every batch.

    stop_after: the batch with which the signal `stop_by` comes.
    """
    placement = None
    if settings.mesh is not None:
        size = settings.mesh.data * settings.mesh.fsdp
        mesh = make_mesh(settings.mesh, jax.devices()[:size])
        placement = Placement(mesh=mesh, rules=RULES)
    net = nnx.Linear(4, 8, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    params = nnx.to_pure_dict(params)
    if placement is not None:
        params = jax.device_put(params, placement.params(params))
    tx = make_optimizer(settings.optimizer, params, 12)
    step = make_train_step(objective, tx, graphdef, seed=3, ema_decay=0.9)
    count = [0]

    def loader(stage, index, rows):
        data = (
            grain.MapDataset.source(Numbers()).seed(index).shuffle().repeat().random_map(Jitter())
        )
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        data = data.batch(stage.batch, drop_remainder=True).to_iter_dataset(options)

        def shown(batch):
            count[0] += 1
            if stop_after is not None and count[0] == stop_after:
                os.kill(os.getpid(), stop_by)
            if seen is not None:
                seen.append(batch["index"].tolist())
            return batch

        return Watched(iter(data), shown)

    mirrored = {"ema": True, "placement": placement}
    like = abstract_state(params, tx, **mirrored)
    options = {"loader": loader, "folder": folder, "until": until, "placement": placement}
    options["sample"] = sample
    begin = functools.partial(init_state, params, tx, **mirrored)
    return fit(step, like, begin, rest=rest, config=settings, **options)


class Printed:
    """A list that shows at once what is appended to it, and forgets it."""

    def append(self, numbers):
        print(f"{BATCH}{' '.join(map(str, numbers))}", flush=True)


if __name__ == "__main__":
    enable_compilation_cache()
    folder, steps, every = sys.argv[1:]
    stages = (StageConfig(steps=int(steps), batch=4),)
    settings = config(0, log_every=1, save_every=int(every))
    settings = dataclasses.replace(settings, stages=stages)
    run(pathlib.Path(folder), settings, seen=Printed())
