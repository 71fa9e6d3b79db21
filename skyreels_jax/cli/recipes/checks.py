"""What stages, windows, blocks, text encoders and data of text-to-video runs must have of each
other.
"""

from skyreels_jax.core.errors import UserError
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.training.config import TrainConfig


def check_text(config: TrainConfig) -> None:
    """Raises `UserError` unless a run has either a text encoder or features, which need none."""
    text_encoder = config.model.text_encoder
    if config.data.features and text_encoder is not None:
        raise UserError(
            "data.features hold the states of texts, so that no text encoder is trained: leave out "
            "model.text_encoder (or data.features)"
        )
    if not config.data.features and text_encoder is None:
        raise UserError(
            "without model.text_encoder a transformer is trained by itself, on features that "
            "`skyreels-jax data encode` makes: name their folder (data.features)"
        )


def check_windows(config: TrainConfig) -> None:
    """Raises `UserError` for stages on ToyFilm and windows of its clips that do not go together."""
    whole, middle, objective = config.data.num_frames, config.data.middle, config.objective
    for stage in config.stages:
        if stage.size:
            raise UserError("stages of text_to_video keep the whole picture: leave size out")
        if stage.frames > whole:
            raise UserError(f"a stage wants {stage.frames} of {whole} frames")
        if middle and not 0 < stage.frames < whole:
            raise UserError(
                f"data.middle cuts windows from longer clips: give each stage fewer frames than "
                f"data.num_frames = {whole}"
            )
    if isinstance(objective, DiffusionForcing):
        return
    if config.data.turns:
        raise UserError(
            "data.turns needs the objective diffusion_forcing, which gives the frames before"
        )
    if middle:
        raise UserError(
            "data.middle needs the objective diffusion_forcing: without the frames before it, "
            "a window from the middle does not show what its caption says"
        )


def check_blocks(config: TrainConfig) -> None:
    """Raises `UserError` for diffusion forcing by other blocks than a causal model has."""
    block, objective = config.model.transformer.num_frame_per_block, config.objective
    if isinstance(objective, DiffusionForcing) and block not in (1, objective.causal_block_size):
        raise UserError(
            f"objective.causal_block_size is {objective.causal_block_size}; the transformer's "
            f"num_frame_per_block is {block}"
        )
