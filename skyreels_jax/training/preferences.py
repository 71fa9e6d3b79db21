"""Motion learning from a model's own films: what a run of it is, beyond any training run."""

import dataclasses

from skyreels_jax.core.errors import UserError
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.plateau import Plateau

_READ = ("vae", "num_frames", "fps", "rates")  # of data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allowance:
    """By how much the axes that are not motion may be worse, by the judge: adherence and
    consistency (of 1), quality (dB).
    """

    adherence: float = 0.03
    consistency: float = 0.03
    quality: float = 1.0

    def __post_init__(self):
        limits = (self.adherence, self.consistency, self.quality)
        if not all(limit >= 0 for limit in limits):
            raise UserError(
                "preferences: adherence, consistency and quality say how far each may fall: 0 or "
                "more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig(Allowance):
    """What each stage is measured by, and how far below the start model's it may lie before the
    run ends.

    films: how many held-out captions, always the same, with the same noise.
    """

    films: int = 64

    def __post_init__(self):
        super().__post_init__()
        if self.films < 1:
            raise UserError("preferences.guards.films is 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferencesConfig:
    """How pairs are made, stage after stage.

    reward: what scores films (`RewardModel`): "MODULE:NAME PLACE", that which the Python function
    NAME makes of PLACE, the folder of a trained reward model; "MODULE:NAME", of nothing.
    stages: how often films are made and ranked anew, and the reference becomes the learner.
    prompts: of each of the two sets, balanced and motion-specific.  films_per_prompt: of which the
    best is put against the worst.
    batch_size: films made side by side.  inference_steps, guidance_scale: of the films; None: the
    start model's own.
    share: how far the exported weights lie from the start model's towards those of the last good
    stage (WiSE-FT, arXiv 2109.01903; after reinforcement: WARP, arXiv 2406.16768). 1: they are
    those. Adapters are exported whole; whoever loads them gives them a scale.
    not_worse: how far the better film of a pair may lie below the other one in what is not motion,
    as the paper keeps pairs that motion alone tells apart; None: any pair will do.
    plateau: when a stage's training is over, at the latest after the config's steps.
    films: folder of a finished run in stages. Its films are ranked, stage by stage, and trained on
    for exactly as many steps as it was; `plateau` and the config's steps then count for nothing.
    None: the run makes films of its own.
    """

    reward: str
    stages: int = 3
    prompts: int = 96
    films_per_prompt: int = 8
    batch_size: int = 8
    inference_steps: int | None = None
    guidance_scale: float | None = None
    share: float = 1.0
    films: str | None = None
    not_worse: Allowance | None = None
    plateau: Plateau = dataclasses.field(default_factory=Plateau)
    guards: GuardConfig = dataclasses.field(default_factory=GuardConfig)

    def __post_init__(self):
        if min(self.stages, self.prompts, self.batch_size) < 1 or self.films_per_prompt < 2:
            raise UserError(
                "preferences need stages, prompts and batch_size of 1 or more and films_per_prompt "
                "of 2 or more"
            )
        if not 0 < self.share <= 1:
            raise UserError("preferences.share lies above 0, and is 1 at most")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowDPOConfig(TrainConfig):
    """A training run in stages of preferences; `start` is the run of the model they begin with.

    Of `data` it reads `vae`, `num_frames` and the rate of films (`fps`, or the first of `rates`),
    and of `stages` there is one: what each stage of preferences trains at most, on pairs of films
    that are `frames` (0: `num_frames`) long.
    Raises `UserError` for all that would not be read.
    """

    preferences: PreferencesConfig

    def __post_init__(self):
        super().__post_init__()
        if not self.start:
            raise UserError("start: name the folder of the run that motion learning begins with")
        if len(self.stages) != 1 or self.stages[0].size or self.stages[0].steps < 1:
            raise UserError(
                "flow_dpo has one entry in stages, of 1 step or more and without a size; how often "
                "films are made anew is preferences.stages"
            )
        if self.lora is not None and self.preferences.share != 1:
            raise UserError(
                "preferences.share is 1 with lora: adapters are exported whole; a smaller part of "
                "them is their scale (generate --lora)"
            )
        # It trains on whole films of its own.
        self.data.check_read("flow_dpo", _READ)
