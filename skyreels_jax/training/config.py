"""What one training run is, as frozen dataclasses; configs/*.py are ml_collections files of it."""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any, Literal

from skyreels_jax.core.errors import UserError
from skyreels_jax.data.selection import Balance
from skyreels_jax.parallel.mesh import MeshConfig

ADAPTED = ("text_to_video", "flow_dpo")  # the kinds of training that can train adapters


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """`steps` steps on batches of one shape; size and frames 0 mean whole clips, uncut.

    resolution: on `data.features`: batches are of the buckets of this one ("540p", "32x48") and up
    to `frames` frames, a bucket at a step. `batch` then counts clips of the largest of these
    buckets, and there are more of smaller ones, of about as many tokens together.
    """

    steps: int
    batch: int
    frames: int = 0
    size: int = 0
    resolution: str = ""

    def __post_init__(self):
        if self.steps < 0 or self.batch < 1:
            raise UserError(
                f"a stage needs steps >= 0 and batch >= 1, got {self.steps}, {self.batch}"
            )
        if self.frames < 0 or self.size < 0 or (self.frames and self.frames % 4 != 1):
            raise UserError(
                "a stage's frames must be 4k + 1 and its size positive (or 0: whole clips), "
                f"got {self.frames}, {self.size}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What is different for some parameters.

    paths: a regular expression; the policy is of the parameters whose whole path it matches.
    learning_rate: times that of the others.  weight_decay: in place of the optimizer's (None: that
    one).
    adam: Adam trains them, matrices too.  frozen: nothing does, and no gradient is computed.
    """

    paths: str
    learning_rate: float = 1.0
    weight_decay: float | None = None
    adam: bool = False
    frozen: bool = False

    def __post_init__(self):
        try:
            re.compile(self.paths)
        except re.error as error:
            raise UserError(
                f"optimizer.policies: {self.paths!r} is no regular expression ({error})"
            ) from None
        if not 0 <= self.learning_rate < math.inf or not 0 <= (self.weight_decay or 0) < math.inf:
            raise UserError(
                f"optimizer.policies: {self.paths!r}: learning_rate and weight_decay are finite "
                "and 0 or more"
            )
        changed = (self.learning_rate, self.weight_decay, self.adam) != (1.0, None, False)
        if self.frozen and changed:
            raise UserError(f"optimizer.policies: {self.paths!r} is frozen; leave out all else")

    def matches(self, path: str) -> bool:
        """Returns whether the policy is of the parameter at `path`."""
        return re.fullmatch(self.paths, path) is not None


MUON = ("learning_rate", "muon_beta", "muon_rms", "muon_coefficients", "muon_iterations")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Muon for matrices and Adam for the rest (or Adam for all), one learning-rate shape for both.

    learning_rate: peak of the matrices' (of muon alone); adam_learning_rate: peak of the rest.
    warmup_steps: linear up to the peak; then constant; from decay_start (a fraction of all steps) a
    linear or cosine way down to final_scale times the peak.
    muon_rms: root mean square of one Muon update at learning rate 1, whatever the matrix's shape.
    muon_coefficients: Newton-Schulz polynomials; "standard" is one for every iteration, "dion" a
    table of five of which fewer iterations take the last.
    weight_decay: a step takes learning rate x weight_decay x parameter away, where Muon trains, or
    Adam trains all; elsewhere only a policy does.
    policies: exceptions by path; the first that matches a parameter counts.
    clip_norm: gradients are scaled down to this global norm; 0 leaves them.
    """

    name: Literal["muon", "adam"] = "muon"
    learning_rate: float = 2e-3
    adam_learning_rate: float = 2e-3
    warmup_steps: int = 100
    decay_start: float = 0.5
    decay: Literal["linear", "cosine"] = "linear"
    final_scale: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    muon_beta: float = 0.95
    muon_rms: float = 0.2
    muon_coefficients: Literal["standard", "dion"] = "standard"
    muon_iterations: int = 5
    adam_b1: float = 0.9
    adam_b2: float = 0.99
    policies: tuple[PolicyConfig, ...] = ()

    def __post_init__(self):
        rates = ("learning_rate", "adam_learning_rate", "weight_decay", "clip_norm", "warmup_steps")
        if odd := [name for name in rates if not 0 <= getattr(self, name) < math.inf]:
            raise UserError(f"optimizer: {', '.join(odd)} must be 0 or more, and finite")
        betas = ("muon_beta", "adam_b1", "adam_b2")
        if odd := [name for name in betas if not 0 <= getattr(self, name) < 1]:
            raise UserError(f"optimizer: {', '.join(odd)} must be in [0, 1)")
        if not 0 <= self.decay_start <= 1:
            raise UserError(
                f"decay_start is a fraction of all steps, in [0, 1], got {self.decay_start}"
            )
        if not 1 <= self.muon_iterations <= 5:
            raise UserError(f"muon_iterations is 1 to 5, got {self.muon_iterations}")
        plain = {field.name: field.default for field in dataclasses.fields(self)}
        given = [name for name in MUON if getattr(self, name) != plain[name]]
        if self.name == "adam" and given:
            raise UserError(
                f"optimizer: adam does not read {', '.join(given)}; its rate is adam_learning_rate"
            )

    def policy(self, path: str) -> PolicyConfig:
        """Returns the policy of the parameter at `path`; without one: one that changes nothing."""
        plain = PolicyConfig(paths=".*")
        return next((policy for policy in self.policies if policy.matches(path)), plain)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which ToyFilm clips, and where what is derived from them lies.

    folder: of the TFDS data sets.  clips, num_frames, captions, rates: of the builder (captions:
    paraphrases a clip; rates: frames a second, which clips have in turn).
    fps: only clips of this many frames a second are trained on (0: all; images count as 24).
    balance: how often clips of each kind are drawn.
    turns: share of the clips that turn into another scene, which their captions are of; diffusion
    forcing alone trains on them, with all frames before the turn given.
    faults: share of the clips that move badly, as found ones do (`data.toy_film.faults`).
    middle: probability that a stage whose `frames` are fewer than num_frames takes its window of
    latents from behind the first one, and not the beginning of the clip. Films longer than a
    window need it where latents are carried from window to window; only diffusion forcing has it.
    vae: folder of the VAE that encodes, a diffusers component; latents: folder of the latents
    store, which the first run that needs it makes; encode_batch: clips encoded at once.
    pairs: of kind "reward", in place of ToyFilm's clips: folder of a set of preferences, or the one
    that it was written to (`--data_dir`) if there is no other; several with commas between them.
    left_out: kinds (sources) of pairs that are not trained on, to be judged by later.
    features: of kind "text_to_video" without a text encoder, in place of ToyFilm's clips: folder
    that `skyreels-jax data encode` made; several with commas between them.
    images: share of the steps on features that are of images, 0 to 1.
    multiple: on features, what the clips of a bucket's batch come in multiples of; a divisor of all
    stages' batches and a multiple of `accumulate`. 0: what the devices need that the run begins on,
    which it writes here, so that it has the same batches on others.
    Every kind of training refuses what it does not read, see `check_read`.
    """

    folder: str = "runs/data"
    split: str = "train"
    clips: int = 4096
    num_frames: int = 33
    captions: int = 4
    rates: tuple[int, ...] = (12,)
    fps: int = 0
    balance: Balance = dataclasses.field(default_factory=Balance)
    turns: float = 0.0
    faults: float = 0.0
    middle: float = 0.0
    vae: str = ""
    latents: str = ""
    encode_batch: int = 8
    pairs: str = ""
    left_out: tuple[str, ...] = ()
    features: str = ""
    images: float = 0.0
    multiple: int = 0

    def __post_init__(self):
        if min(self.clips, self.captions, self.encode_batch) < 1 or self.num_frames % 4 != 1:
            raise UserError(
                "data needs clips, captions and encode_batch of 1 or more and num_frames = 4k + 1"
            )
        if not self.rates or min(self.rates) < 1 or self.fps < 0:
            raise UserError(
                "data.rates are frames a second, 1 or more; data.fps is one of them or 0"
            )
        if not 0 <= self.middle <= 1:
            raise UserError(f"data.middle is a probability, got {self.middle}")
        if not 0 <= self.images <= 1:
            raise UserError(f"data.images is a share of the steps, 0 to 1, got {self.images}")
        if self.multiple < 0:
            raise UserError(f"data.multiple is a number of clips or 0, got {self.multiple}")
        for name in ("turns", "faults"):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UserError(f"data.{name} is a share of the clips, 0 to 1, got {value}")

    def check_read(self, kind: str, names: Collection[str]) -> None:
        """Raises `UserError` where a field that is not in `names`, those that `kind` reads, was
        set: it would do nothing.
        """
        plain = DataConfig()
        fields = [field.name for field in dataclasses.fields(self) if field.name not in names]
        if given := [name for name in fields if getattr(self, name) != getattr(plain, name)]:
            raise UserError(
                f"{kind} reads data.{', '.join(names)}: leave out data.{', '.join(given)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters are trained, upon weights that stay as they are: W + alpha / rank * down @ up.

    targets: regular expressions of the paths of kernels that get one, each matched as a whole;
    legal are the transformer's linear layers. "adapter/down/kernel" and "adapter/up/kernel" under
    the path of a layer are then the only parameters, and each a matrix to Muon.
    base: fingerprint of the model at `start`, which the run writes here: without the very weights
    that they were trained upon, adapters are nothing.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = (
        "transformer/blocks/attn[12]/[qkvo]/kernel",
        "transformer/blocks/ffn/(up|down)/kernel",
    )
    base: str = ""

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"lora.rank is 1 or more, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha must be more than 0 and finite, got {self.alpha:g}")
        if not self.targets:
            raise UserError("lora.targets: name layers, such as 'transformer/blocks/.*/kernel'")
        for target in self.targets:
            try:
                re.compile(target)
            except re.error as error:
                raise UserError(
                    f"lora.targets: {target!r} is no regular expression ({error})"
                ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; `model` and `objective` are mappings in a config file, dataclasses once
    resolved.

    kind: what is trained; "vae" on pixels, "text_to_video" on latents, "reward" on pairs of clips,
    "flow_dpo" on pairs of its own films (a `FlowDPOConfig`).
    start: whose weights the run begins with: the folder of a finished run (averaged weights if it
    kept them), or any model that can be loaded ("tiny", a folder, a hub id); "": random ones.
    stages: trained one after the other, one compiled step a shape.
    accumulate: micro-batches a step.  compute_dtype: of the forward and backward pass; parameters
    stay float32.
    remat: what the backward pass does not compute again, of text_to_video and flow_dpo:
    "none" leaves out anything; least memory: "block", "offload" (`nn.stack`).
    ema_decay: of the averaged parameters (0: none are kept).
    max_skipped: after so many steps in a row whose gradients are not finite the run ends.
    writers: of the metrics, beside metrics.csv; "tensorboard" writes under OUT/tensorboard.
    sample_every: after so many steps a sheet of films, by the averaged weights if there are any, is
    written to OUT/samples and `writers` (0: never). Of text_to_video; of many devices one makes
    them, which has to have room for the whole model.
    sample_prompts: what these films are of; (): of held-out sentences of ToyFilm.
    log_every, save_every: in steps.  keep: how many checkpoints stay on disk, the latest ones.
    keep_every: those of steps that it divides stay as well (0: none), a multiple of save_every.
    flow_shift: the sampler's default time shift, written into the exported scheduler; of
    text_to_video and flow_dpo.
    mesh: how the work is divided among devices; None: one device does it all. vae and reward are
    divided by clips alone (data, fsdp).
    lora: adapters are trained upon the weights at `start`, of the kinds `ADAPTED`; None: whole
    models are.
    """

    kind: Literal["vae", "text_to_video", "reward", "flow_dpo"]
    out: str
    model: Any
    objective: Any
    data: DataConfig
    stages: tuple[StageConfig, ...]
    optimizer: OptimizerConfig
    start: str = ""
    seed: int = 0
    accumulate: int = 1
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "block", "attention", "dots", "offload"] = "none"
    ema_decay: float = 0.0
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    sample_every: int = 0
    sample_prompts: tuple[str, ...] = ()
    log_every: int = 25
    save_every: int = 500
    max_skipped: int = 20
    keep: int = 2
    keep_every: int = 0
    flow_shift: float = 1.0
    lora: LoraConfig | None = None
    mesh: MeshConfig | None = None

    def __post_init__(self):
        if self.lora is not None and self.kind not in ADAPTED:
            raise UserError(
                f"lora: {self.kind} trains whole models; legal for {' and '.join(ADAPTED)}"
            )
        if not self.stages:
            raise UserError("stages: a run has one at least, such as ({'steps': 100, 'batch': 8},)")
        if not (self.flow_shift > 0 and math.isfinite(self.flow_shift)):
            raise UserError(f"flow_shift must be more than 0, got {self.flow_shift}")
        for stage in self.stages:
            if self.accumulate < 1 or stage.batch % self.accumulate:
                raise UserError(
                    f"accumulate = {self.accumulate} must divide each stage's batch ({stage.batch})"
                )
            if (of := self.data.multiple) and (of % self.accumulate or stage.batch % of):
                raise UserError(
                    f"data.multiple = {of} must divide each stage's batch ({stage.batch}) and be a "
                    f"multiple of accumulate = {self.accumulate}"
                )
            if stage.resolution and not self.data.features:
                raise UserError("stages have a resolution on data.features only: leave it out")
        if min(self.log_every, self.save_every, self.keep, self.max_skipped) < 1:
            raise UserError("log_every, save_every, keep and max_skipped must be at least 1")
        self._check_read()
        if self.sample_every < 0 or (self.sample_every and self.kind != "text_to_video"):
            raise UserError(
                "sample_every: legal are 0 (never) and, of text_to_video, a number of steps, got "
                f"{self.sample_every}"
            )
        if self.sample_every and self.data.features and not self.sample_prompts:
            raise UserError(
                "sample_every: a run on data.features has no sentences to make films of: name them "
                "(sample_prompts)"
            )
        if self.sample_prompts and not self.sample_every:
            raise UserError("sample_prompts are of films that are made every sample_every steps")
        if self.keep_every < 0 or self.keep_every % self.save_every:
            raise UserError(
                f"keep_every is 0 or a multiple of save_every = {self.save_every}, got "
                f"{self.keep_every}"
            )
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must be in [0, 1), got {self.ema_decay}")

    def _check_read(self) -> None:
        """Raises `UserError` where a field was set that the kind does not read."""
        if self.kind in ADAPTED:  # these have a transformer, and read all
            return
        plain, mesh = {"remat": "none", "flow_shift": 1.0}, MeshConfig()
        given = [name for name, value in plain.items() if getattr(self, name) != value]
        if self.mesh is not None:
            parts = ("tensor", "context", "attention")
            given += [f"mesh.{n}" for n in parts if getattr(self.mesh, n) != getattr(mesh, n)]
        if given:
            raise UserError(
                f"{self.kind} has no transformer: leave out {', '.join(given)} (of a mesh it reads "
                "data and fsdp)"
            )

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def checkpoints(self) -> int:
        """How many lie on disk at the end, while the last of them is written."""
        return self.keep + 1 + (self.total_steps // self.keep_every if self.keep_every else 0)

    def stage_at(self, step: int) -> tuple[int, int]:
        """Returns (index of the stage that `step` belongs to, step within that stage)."""
        for index, stage in enumerate(self.stages):
            if step < stage.steps:
                return index, step
            step -= stage.steps
        raise UserError(f"step {step} lies behind the last stage")
