"""From pixels to what the CLIP vision encoder reads: transformers' `CLIPImageProcessor`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from skyreels_jax.core.config import from_dict
from skyreels_jax.core.errors import UserError

BICUBIC = 3  # Pillow's number of the filter
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPImageConfig:
    """What preprocessor_config.json says; the defaults are those of OpenAI's and LAION's models.

    shortest_edge: an image is resized (bicubic, aspect kept) until its shorter side has this
    length; the middle `crop_size` x `crop_size` is kept, times `rescale_factor`, and normalised
    per channel by `image_mean` and `image_std`. Raises `UserError` for a crop beyond the image.
    """

    shortest_edge: int = 224
    crop_size: int = 224
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self):
        if not 1 <= self.crop_size <= self.shortest_edge:
            raise UserError(
                f"CLIPImageConfig.crop_size must be 1 to shortest_edge = {self.shortest_edge}, "
                f"got {self.crop_size}"
            )


def from_json(values: Mapping[str, Any]) -> CLIPImageConfig:
    """Returns the configuration in a preprocessor_config.json (of transformers 4 or 5).

    Raises `UserError` for anything that is not resize, centre crop, rescale and normalise.
    """
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    if not str(kind).startswith(("CLIPImageProcessor", "CLIPFeatureExtractor")):
        raise UserError(f"image processor {kind!r} is not supported; legal: CLIPImageProcessor")
    left_out = [name for name in STEPS if not values.get(name, True)]
    if left_out or values.get("resample", BICUBIC) != BICUBIC:
        what = ", ".join(left_out) or f"resample = {values['resample']!r}"
        raise UserError(f"image processor: {what} is not supported; only bicubic, with all steps")
    lengths = {
        "shortest_edge": _length("size", values.get("size", 224), ("shortest_edge",)),
        "crop_size": _length("crop_size", values.get("crop_size", 224), ("height", "width")),
    }
    plain = ("rescale_factor", "image_mean", "image_std")
    return from_dict(CLIPImageConfig, {k: values[k] for k in plain if k in values} | lengths)


def to_json(config: CLIPImageConfig) -> dict[str, Any]:
    """Returns the preprocessor_config.json of `config`, as transformers 5 writes it."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        **dict.fromkeys(STEPS, True),
        "resample": BICUBIC,
        "size": {"shortest_edge": config.shortest_edge},
        "crop_size": {"height": config.crop_size, "width": config.crop_size},
        "rescale_factor": config.rescale_factor,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
    }


def _length(name: str, value: Any, keys: tuple[str, ...]) -> int:
    """Returns the length in `value`: a number (transformers 4), or one under each of `keys`."""
    lengths = {value.get(key) for key in keys} if isinstance(value, Mapping) else {value}
    if len(lengths) != 1 or not isinstance(length := lengths.pop(), int):
        legal = " = ".join(keys)
        raise UserError(f"image processor: {name} {value!r} is not supported; legal: {legal} = N")
    return length


def preprocess(
    pixels: UInt8[np.ndarray, "H W 3"], config: CLIPImageConfig
) -> Float[np.ndarray, "size size 3"]:
    """Returns the image as the encoder reads it, float32, bit for bit as transformers makes it."""
    from PIL import Image

    height, width = pixels.shape[:2]
    edge, short = config.shortest_edge, min(height, width)
    # The longer side is cut off, not rounded, as in torchvision.
    size = (int(edge * width / short), int(edge * height / short))
    resized = np.asarray(Image.fromarray(pixels).resize(size, resample=BICUBIC))
    top, left = ((side - config.crop_size) // 2 for side in resized.shape[:2])
    crop = resized[top : top + config.crop_size, left : left + config.crop_size]
    unit = (crop.astype(np.float64) * config.rescale_factor).astype(np.float32)
    mean, std = np.float32(config.image_mean), np.float32(config.image_std)
    return (unit - mean) / std
