"""What lies around the tensors of an adapter: where peft and diffusers say alpha.

A peft folder has an `adapter_config.json`; a file that diffusers wrote has the same values in its
header. Where neither exists, the keys of the file say alpha, or it equals the rank.
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from skyreels_jax.core.errors import UserError
from skyreels_jax.weights.lora import Scaling, no_scaling
from skyreels_jax.weights.reader import SafetensorsSource, TensorSource, open_source

CONFIG = "adapter_config.json"
STEM = "adapter_model"  # of the file beside it
HEADER = "lora_adapter_metadata"


def open_lora(path: str | pathlib.Path) -> tuple[TensorSource, Scaling]:
    """Opens an adapter file or folder; returns its tensors, and alpha / rank for `read_lora`.

    Raises `UserError` for a missing or damaged file or configuration, and for DoRA.
    """
    path = pathlib.Path(path)
    source = open_source(path)
    config = (path.parent if path.stem == STEM else path) / CONFIG
    if config.is_file():
        return source, peft_scaling(
            _parse(config.read_text("utf-8"), str(config)), name=str(config)
        )
    text = source.metadata().get(HEADER) if isinstance(source, SafetensorsSource) else None
    if text is None:
        return source, no_scaling
    values = _parse(text, source.name)
    # One header may speak for several models: "transformer.r", "text_encoder.r".
    ours = {key.removeprefix("transformer."): value for key, value in values.items()}
    return source, peft_scaling(ours, name=source.name)


def peft_scaling(values: Mapping[str, Any], *, name: str) -> Scaling:
    """Returns alpha / rank as the values of a peft `LoraConfig` say it.

    Read are `lora_alpha`, `alpha_pattern` and `use_rslora` (alpha / sqrt(rank)). Raises `UserError`
    for DoRA, which is no sum, and for values of the wrong type.
    """
    if values.get("use_dora"):
        raise UserError(f"{name} is a DoRA adapter (use_dora); legal: LoRA adapters")
    alpha, patterns = values.get("lora_alpha"), values.get("alpha_pattern") or {}
    numbers = [alpha or 0, *(patterns.values() if isinstance(patterns, Mapping) else ["?"])]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise UserError(f"{name}: lora_alpha and all of alpha_pattern must be numbers")
    try:  # as in peft, a pattern is a regular expression for the end of a layer's name
        found = [(re.compile(rf"(.*\.)?({p})$"), value) for p, value in patterns.items()]
    except re.error as error:
        raise UserError(f"{name}: alpha_pattern holds no regular expression ({error})") from None

    def scaling(layer: str, rank: int) -> float:
        chosen = next((value for regex, value in found if regex.match(layer)), alpha)
        if chosen is None:
            return 1.0
        return float(chosen) / (math.sqrt(rank) if values.get("use_rslora") else rank)

    return scaling


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name}: not readable as json ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected a json object")
    return values
