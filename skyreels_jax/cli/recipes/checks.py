"""What stages, windows, blocks, text encoders, data and meshes of text-to-video runs must have of
each other.
"""

from collections.abc import Mapping

from skyreels_jax.core.errors import UserError
from skyreels_jax.objectives.diffusion_forcing import DiffusionForcing
from skyreels_jax.parallel.mesh import AXES, make_mesh
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


def mesh_shape(config: TrainConfig) -> Mapping[str, int]:
    """Returns how many devices each axis has; one where there is no mesh."""
    return dict.fromkeys(AXES, 1) if config.mesh is None else make_mesh(config.mesh).shape


def check_heads(config: TrainConfig, shape: Mapping[str, int]) -> None:
    """Raises `UserError` where a mesh of this shape cannot share a transformer's heads."""
    heads = config.model.transformer.num_attention_heads
    tensor, context = shape["tensor"], shape["context"]
    ulysses = config.mesh.attention == "ulysses" and context > 1
    sharing = tensor * context if ulysses else tensor
    if heads % sharing:
        among = f"tensor {tensor} x context {context}" if ulysses else f"tensor {tensor}"
        raise UserError(
            f"mesh: {among} devices cannot share {heads} heads; legal: divisors"
            + ("; mesh.attention=ring needs none of context" if ulysses else "")
        )


def check_tokens(tokens: int, context: int, *, of: str) -> None:
    """Raises `UserError` where `context` devices cannot share the tokens of a frame `of` these."""
    if tokens % context:
        raise UserError(
            f"mesh.context: {context} devices cannot share the {tokens} tokens of a frame of {of}; "
            "legal: divisors of it"
        )
