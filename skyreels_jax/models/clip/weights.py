"""Names of the CLIP vision encoder's tensors in transformers' folders and in Wan's checkpoint."""

from skyreels_jax.models.clip.config import CLIPVisionConfig
from skyreels_jax.weights.table import Rule, Table, ignored
from skyreels_jax.weights.transforms import CONV2D, LINEAR, Transform

# One row per layer: path in our tree, name in transformers, name in the official checkpoint.
Rows = tuple[tuple[str, str, str], ...]

NORMS: Rows = (
    ("pre_norm", "pre_layrnorm", "pre_norm"),
    ("blocks/norm1", "encoder.layers.{i}.layer_norm1", "transformer.{i}.norm1"),
    ("blocks/norm2", "encoder.layers.{i}.layer_norm2", "transformer.{i}.norm2"),
    ("post_norm", "post_layernorm", "post_norm"),
)
LINEARS: Rows = (
    ("blocks/attn/o", "encoder.layers.{i}.self_attn.out_proj", "transformer.{i}.attn.proj"),
    ("blocks/mlp/up", "encoder.layers.{i}.mlp.fc1", "transformer.{i}.mlp.0"),
    ("blocks/mlp/down", "encoder.layers.{i}.mlp.fc2", "transformer.{i}.mlp.2"),
)
PARTS = (("part", ("q", "k", "v")),)

# The text half of the official checkpoint, which image-to-video models do not use.
TEXTUAL = (
    "log_scale",
    *(f"textual.{name}_embedding.weight" for name in ("token", "type", "pos")),
    *(f"textual.norm.{kind}" for kind in ("weight", "bias")),
    *(f"textual.head.{n}.weight" for n in (0, 2)),
    *(
        f"textual.blocks.{{i}}.{layer}.{kind}"
        for layer in ("attn.q", "attn.k", "attn.v", "attn.o", "norm1", "norm2", "ffn.0", "ffn.2")
        for kind in ("weight", "bias")
    ),
)


def diffusers_table(config: CLIPVisionConfig) -> Table:
    """Returns the table of transformers' `CLIPVisionModel` or `CLIPVisionModelWithProjection`.

    Files of the former have the prefix "vision_model." (transformers 4) or not (5).
    """

    def rule(name: str, *args, **kwargs) -> Rule:
        tied = None if config.projects else name
        return Rule(f"vision_model.{name}", *args, tied=tied, **kwargs)

    attention = "encoder.layers.{i}.self_attn.{part}_proj"
    rules = [
        rule("embeddings.class_embedding", "class_embedding"),
        rule("embeddings.position_embedding.weight", "position_embedding"),
        rule("embeddings.patch_embedding.weight", "patch_embedding/kernel", CONV2D),
        rule(f"{attention}.weight", "blocks/attn/qkv/kernel", LINEAR, words=PARTS),
        rule(f"{attention}.bias", "blocks/attn/qkv/bias", words=PARTS),
    ]
    for path, name, _ in LINEARS:
        rules.append(rule(f"{name}.weight", f"{path}/kernel", LINEAR))
        rules.append(rule(f"{name}.bias", f"{path}/bias"))
    for path, name, _ in NORMS:
        rules.append(rule(f"{name}.weight", f"{path}/scale"))
        rules.append(rule(f"{name}.bias", f"{path}/bias"))
    if config.projects:
        rules.append(Rule("visual_projection.weight", "projection/kernel", LINEAR))
    # A buffer, the numbers 0 to 256, that old versions of transformers stored.
    return (*rules, *ignored("vision_model.embeddings.position_ids", "embeddings.position_ids"))


def official_table(config: CLIPVisionConfig) -> Table:
    """Returns the table of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`.

    (Wan 2.1, `wan/modules/clip.py`, `XLMRobertaCLIP`.) Only its vision half becomes parameters.
    """
    block = "visual.transformer.{i}.attn.to_qkv"
    three = (("part", 3),)
    rules = [
        Rule("visual.cls_embedding", "class_embedding", Transform("1 1 d -> d")),
        Rule("visual.pos_embedding", "position_embedding", Transform("1 s d -> s d")),
        Rule("visual.patch_embedding.weight", "patch_embedding/kernel", CONV2D),
        Rule(
            f"{block}.weight",
            "blocks/attn/qkv/kernel",
            Transform("(part o) i -> part i o", three),
        ),
        Rule(f"{block}.bias", "blocks/attn/qkv/bias", Transform("(part o) -> part o", three)),
    ]
    for path, _, name in LINEARS:
        rules.append(Rule(f"visual.{name}.weight", f"{path}/kernel", LINEAR))
        rules.append(Rule(f"visual.{name}.bias", f"{path}/bias"))
    for path, _, name in NORMS:
        rules.append(Rule(f"visual.{name}.weight", f"{path}/scale"))
        rules.append(Rule(f"visual.{name}.bias", f"{path}/bias"))
    rest = TEXTUAL
    if config.projects:
        rules.append(Rule("visual.head", "projection/kernel"))
    else:
        rest = (*rest, "visual.head")
    return (*rules, *ignored(*rest))
