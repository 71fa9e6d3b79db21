"""Names of the VAE's tensors in diffusers' folders and in Wan's checkpoints."""

from collections.abc import Iterator

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.weights.table import Rule, Table
from skyreels_jax.weights.transforms import CONV2D, CONV3D, Transform, squeeze

# A layer: its diffusers name, its official name, and what it is.
Layer = tuple[str, str, str]

_LEAVES: dict[str, tuple[tuple[str, str, Transform], ...]] = {
    "conv3d": (("weight", "kernel", CONV3D), ("bias", "bias", Transform())),
    "conv2d": (("weight", "kernel", CONV2D), ("bias", "bias", Transform())),
    "norm3d": (("gamma", "scale", squeeze(4)),),
    "norm2d": (("gamma", "scale", squeeze(3)),),
}


def diffusers_table(config: VAEConfig) -> Table:
    """Returns the table of diffusers' `AutoencoderKLWan` (a folder's `vae/`)."""
    return tuple(rule for name, _, kind in _layers(config) for rule in _rules(name, name, kind))


def official_table(config: VAEConfig) -> Table:
    """Returns the table of `Wan2.1_VAE.pth` (`is_residual`: `Wan2.2_VAE.pth`).

    Raises `UserError` for `attn_scales`: the official decoder then has attention too, which
    diffusers' decoder, and so ours, has not.
    """
    if config.attn_scales:
        raise UserError("attn_scales must be empty: the official decoder would differ from ours")
    return tuple(
        rule for name, official, kind in _layers(config) for rule in _rules(official, name, kind)
    )


def _rules(source: str, name: str, kind: str) -> Iterator[Rule]:
    # Ours are diffusers' names, without the index of the convolution in its `nn.Sequential`.
    target = name.replace(".", "/").replace("resample/1", "resample")
    for theirs, ours, transform in _LEAVES[kind]:
        yield Rule(f"{source}.{theirs}", f"{target}/{ours}", transform)


def _layers(config: VAEConfig) -> Iterator[Layer]:
    yield "quant_conv", "conv1", "conv3d"
    yield "post_quant_conv", "conv2", "conv3d"
    for part in ("encoder", "decoder"):
        yield f"{part}.conv_in", f"{part}.conv1", "conv3d"
        yield from _resnet(f"{part}.mid_block.resnets.0", f"{part}.middle.0")
        yield from _attention(f"{part}.mid_block.attentions.0", f"{part}.middle.1")
        yield from _resnet(f"{part}.mid_block.resnets.1", f"{part}.middle.2")
        yield f"{part}.norm_out", f"{part}.head.0", "norm3d"
        yield f"{part}.conv_out", f"{part}.head.2", "conv3d"
    yield from _residual_stages(config) if config.is_residual else _flat_stages(config)


def _flat_stages(config: VAEConfig) -> Iterator[Layer]:
    """Wan 2.1: officially one flat list each way; diffusers groups the decoder's by stage."""
    names = "encoder.down_blocks.{i}", "encoder.downsamples.{i}"
    yield from (*_resnet(*names), *_attention(*names), *_resample(*names))
    blocks = config.num_res_blocks + 1
    for i in range(len(config.dim_mult)):
        stage, first = f"decoder.up_blocks.{i}", i * (blocks + 1)
        for j in range(blocks):
            yield from _resnet(f"{stage}.resnets.{j}", f"decoder.upsamples.{first + j}")
        yield from _resample(f"{stage}.upsamplers.0", f"decoder.upsamples.{first + blocks}")


def _residual_stages(config: VAEConfig) -> Iterator[Layer]:
    """Wan 2.2: officially a list of stages each way, and each stage a list."""
    for stage, official, last, sampler in (
        ("encoder.down_blocks", "downsamples", config.num_res_blocks, "downsampler"),
        ("decoder.up_blocks", "upsamples", config.num_res_blocks + 1, "upsampler"),
    ):
        ours, theirs = stage + ".{i}", f"{stage.split('.')[0]}.{official}.{{i}}.{official}"
        yield from _resnet(ours + ".resnets.{j}", theirs + ".{j}")
        yield from _resample(f"{ours}.{sampler}", f"{theirs}.{last}")


def _resnet(name: str, official: str) -> Iterator[Layer]:
    yield f"{name}.norm1", f"{official}.residual.0", "norm3d"
    yield f"{name}.conv1", f"{official}.residual.2", "conv3d"
    yield f"{name}.norm2", f"{official}.residual.3", "norm3d"
    yield f"{name}.conv2", f"{official}.residual.6", "conv3d"
    yield f"{name}.conv_shortcut", f"{official}.shortcut", "conv3d"


def _attention(name: str, official: str) -> Iterator[Layer]:
    yield f"{name}.norm", f"{official}.norm", "norm2d"
    yield f"{name}.to_qkv", f"{official}.to_qkv", "conv2d"
    yield f"{name}.proj", f"{official}.proj", "conv2d"


def _resample(name: str, official: str) -> Iterator[Layer]:
    yield f"{name}.resample.1", f"{official}.resample.1", "conv2d"
    yield f"{name}.time_conv", f"{official}.time_conv", "conv3d"
