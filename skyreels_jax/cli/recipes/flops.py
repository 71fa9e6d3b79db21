"""Operations of a training step of the text-to-video kinds, by formula."""

from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.models.dit import flops as transformer
from skyreels_jax.models.umt5 import flops as text_encoder
from skyreels_jax.training.config import TrainConfig
from skyreels_jax.training.optimizer import is_trained


def step_flops(
    config: TrainConfig,
    passes: dict[str, float],
    films: tuple[int, int, int, int, int],
    *,
    tokens: int,
) -> int:
    """Returns the operations of `passes` of each part on latents of the shape `films`.

    tokens: of a caption, padding included.
    """
    count, *size = films[:4]
    grid = tuple(n // p for n, p in zip(size, config.model.transformer.patch_size, strict=True))
    once = {
        "transformer": transformer.forward_flops(config.model.transformer, grid, text=tokens),
    }
    if "text_encoder" in passes:
        once["text_encoder"] = text_encoder.forward_flops(config.model.text_encoder, tokens)
    return int(count * sum(passes[name] * flops for name, flops in once.items()))


def train_passes(config: TrainConfig, params: Params) -> dict[str, float]:
    """Returns as how many forward passes the training of each part counts.

    It is one, another one for the gradient of what the part was given, where something in it or
    before it is trained, and of a third one the share of its kernels that are. What is computed
    again to save memory does not count: it trains nothing. params: those of the run.
    """
    if config.lora is not None:  # adapters are small, and the transformer's
        text = {} if config.model.text_encoder is None else {"text_encoder": 1.0}
        return {"transformer": 2.0, **text}
    trained, passes = is_trained(config.optimizer), {}
    for part in params:
        leaves = {f"{part}/{name}": leaf.size for name, leaf in named_leaves(params[part])}
        kernels = {name: size for name, size in leaves.items() if name.endswith("/kernel")}
        share = sum(n for name, n in kernels.items() if trained(name)) / sum(kernels.values())
        touched = part == "transformer" or any(map(trained, leaves))
        passes[part] = 1 + touched + share
    return passes
