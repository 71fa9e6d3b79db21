"""Training a text-to-video model on pairs of its own films."""

import dataclasses
import pathlib

from skyreels_jax.cli.recipes.checks import check_blocks, check_windows
from skyreels_jax.cli.recipes.flops import step_flops, train_passes
from skyreels_jax.cli.recipes.text_to_video import OBJECTIVES, TextToVideoRecipe, encode_null
from skyreels_jax.core.config import fields_of, from_dict, suggest, to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.core.types import Params
from skyreels_jax.data.loader import pipeline
from skyreels_jax.data.preferences.ranked import RankedPairs, ToldPair
from skyreels_jax.data.toy_film.tokenizer import build_tokenizer
from skyreels_jax.models.kinds import TRAINED
from skyreels_jax.models.transfer import write_diffusers
from skyreels_jax.objectives.chosen import Chosen
from skyreels_jax.objectives.flow_dpo import METRICS, FlowDPO
from skyreels_jax.objectives.flow_matching import FlowMatching
from skyreels_jax.pipelines import load
from skyreels_jax.pipelines.convert import run_model
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.loop import Loader
from skyreels_jax.training.meter import Flops
from skyreels_jax.training.preferences import FlowDPOConfig
from skyreels_jax.weights.params import BetweenParams

PAIRED = {objective.name: objective for objective in (FlowDPO, Chosen)}


def check(config: FlowDPOConfig) -> None:
    """Raises `UserError` for a model, films and times that do not go together, and for a plateau of
    something that the objective does not measure.
    """
    if config.data.features or config.model.text_encoder is None:
        raise UserError(
            "flow_dpo trains on films of ToyFilm's captions: it needs model.text_encoder, and "
            "reads no data.features"
        )
    plain = dataclasses.replace(config, objective=config.objective.velocity)
    check_windows(plain)
    check_blocks(plain)
    if config.model.transformer.inject_sample_info:
        raise UserError(
            "flow_dpo tells the model no frame rate: model.transformer.inject_sample_info must be "
            "False, as supervised fine-tuning leaves it"
        )
    watched = config.preferences.plateau.metric
    if watched not in METRICS:
        raise UserError(
            f"preferences.plateau.metric {watched!r} is not measured{suggest(watched, METRICS)}"
        )


@dataclasses.dataclass(frozen=True)
class FlowDPORecipe(TextToVideoRecipe):
    """Kind "flow_dpo": `model` is a `TextToVideoConfig`, `objective` one of `PAIRED` (without a
    "name": `FlowDPO`) whose `velocity` is one of text_to_video's (without one: flow matching).

    pairs: of the stage that is trained.  near: the model towards which the export lies.
    """

    pairs: RankedPairs | None = None
    near: str | None = None

    def resolve(self, config: TrainConfig) -> TrainConfig:
        given = fields_of("objective", config.objective)
        paired = given.setdefault("name", FlowDPO.name)
        if paired not in PAIRED:
            raise UserError(f"objective.name {paired!r} is not known{suggest(str(paired), PAIRED)}")
        velocity = fields_of("objective.velocity", given.get("velocity", {}))
        name = velocity.get("name", FlowMatching.name)
        if name not in OBJECTIVES:
            raise UserError(
                f"objective.velocity.name {name!r} is not known{suggest(str(name), OBJECTIVES)}"
            )
        given["velocity"] = from_dict(OBJECTIVES[name], velocity)
        plain = super().resolve(dataclasses.replace(config, objective=velocity))
        return dataclasses.replace(plain, objective=from_dict(PAIRED[paired], given))

    def loader(self, config: TrainConfig) -> Loader:
        """Returns what opens the one stage's pairs; `self.pairs` must be there."""
        pairs = self.pairs
        assert pairs is not None
        told = ToldPair(encode_null(build_tokenizer(), pairs.captions["input_ids"].shape[-1]))
        return lambda stage, index, rows: pipeline(
            pairs, told, batch=stage.batch, seed=config.seed + index, rows=rows
        )

    def export(self, config: TrainConfig, folder: pathlib.Path, dtype: str) -> None:
        if self.near is None:
            return super().export(config, folder, dtype)
        share, first = config.preferences.share, load.find(self.near).params(None)
        model = run_model(pathlib.Path(config.out), dtype=dtype, config=to_dict(config))
        parts = {
            name: dataclasses.replace(part, params=BetweenParams(first[name], part.params, share))
            for name, part in model.parts.items()
            if name in TRAINED
        }
        return write_diffusers(dataclasses.replace(model, parts=model.parts | parts), folder)

    def flops(self, config: TrainConfig, params: Params) -> Flops:
        passes, sides = train_passes(config, params), 1
        if isinstance(config.objective, FlowDPO):  # both films of a pair, and the reference on them
            passes, sides = {name: n + 1 for name, n in passes.items()}, 2

        def of(batch):
            pairs, *size = batch["chosen"].shape
            films = (sides * pairs, *size)
            tokens = batch["cond"]["input_ids"].shape[-1]
            return step_flops(config, passes, films, tokens=tokens)

        return of
