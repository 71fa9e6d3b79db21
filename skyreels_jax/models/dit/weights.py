"""Names of the diffusion transformer's tensors in diffusers folders and in official releases."""

from skyreels_jax.models.dit.config import DiTConfig
from skyreels_jax.weights.table import Rule, Table, ignored
from skyreels_jax.weights.transforms import CONV3D, LINEAR, SAME

# One row per layer: path in our tree, name in diffusers, name in official releases.
Rows = tuple[tuple[str, str, str], ...]

BLOCK_LINEAR: Rows = (
    ("attn1/q", "attn1.to_q", "self_attn.q"),
    ("attn1/k", "attn1.to_k", "self_attn.k"),
    ("attn1/v", "attn1.to_v", "self_attn.v"),
    ("attn1/o", "attn1.to_out.0", "self_attn.o"),
    ("attn2/q", "attn2.to_q", "cross_attn.q"),
    ("attn2/k", "attn2.to_k", "cross_attn.k"),
    ("attn2/v", "attn2.to_v", "cross_attn.v"),
    ("attn2/o", "attn2.to_out.0", "cross_attn.o"),
    ("ffn/up", "ffn.net.0.proj", "ffn.0"),
    ("ffn/down", "ffn.net.2", "ffn.2"),
)
BLOCK_RMS: Rows = (
    ("attn1/norm_q", "attn1.norm_q", "self_attn.norm_q"),
    ("attn1/norm_k", "attn1.norm_k", "self_attn.norm_k"),
    ("attn2/norm_q", "attn2.norm_q", "cross_attn.norm_q"),
    ("attn2/norm_k", "attn2.norm_k", "cross_attn.norm_k"),
)
BLOCK_NORM: Rows = (("norm2", "norm2", "norm3"),)
IMAGE_BLOCK_LINEAR: Rows = (
    ("attn2/k_img", "attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2/v_img", "attn2.add_v_proj", "cross_attn.v_img"),
)
IMAGE_BLOCK_RMS: Rows = (("attn2/norm_k_img", "attn2.norm_added_k", "cross_attn.norm_k_img"),)
TOP_LINEAR: Rows = (
    ("text_embedder/up", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("text_embedder/down", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("time_embedder/up", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("time_embedder/down", "condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("time_proj", "condition_embedder.time_proj", "time_projection.1"),
    ("head", "proj_out", "head.head"),
)
IMAGE_LINEAR: Rows = (
    ("image_embedder/mlp/up", "condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("image_embedder/mlp/down", "condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
)
IMAGE_NORM: Rows = (
    ("image_embedder/norm1", "condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("image_embedder/norm2", "condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
)
FPS_LINEAR: Rows = (
    ("fps_embedder/projection/up", "fps_projection.net.0.proj", "fps_projection.0"),
    ("fps_embedder/projection/down", "fps_projection.net.2", "fps_projection.2"),
)
# Single tensors: path, diffusers name, official name, layout.
TOP = (
    ("patch_embedding/kernel", "patch_embedding.weight", "patch_embedding.weight", CONV3D),
    ("patch_embedding/bias", "patch_embedding.bias", "patch_embedding.bias", SAME),
    ("head_modulation", "scale_shift_table", "head.modulation", SAME),
    ("blocks/modulation", "blocks.{i}.scale_shift_table", "blocks.{i}.modulation", SAME),
)
FPS = (("fps_embedder/embedding", "fps_embedding.weight", "fps_embedding.weight", SAME),)
POSITIONS = (
    (
        "image_embedder/pos_embed",
        "condition_embedder.image_embedder.pos_embed",
        "img_emb.emb_pos",
        SAME,
    ),
)


def diffusers_table(config: DiTConfig) -> Table:
    """Returns the names of `SkyReelsV2Transformer3DModel` in diffusers."""
    # Left over in some conversions of image models; diffusers ignores it as well.
    return _table(config, 0) + ignored("blocks.{i}.attn2.norm_added_q.weight")


def official_table(config: DiTConfig) -> Table:
    """Returns the names of `WanModel` in the official SkyReels-V2 repository."""
    return _table(config, 1)


def _table(config: DiTConfig, column: int) -> Table:
    image = config.image_dim is not None
    linear = TOP_LINEAR + (IMAGE_LINEAR if image else ())
    linear += FPS_LINEAR if config.inject_sample_info else ()
    rules = []
    for row in linear:
        rules += _layer(row[0], row[1 + column], kernel=True)
    for row in IMAGE_NORM if image else ():
        rules += _layer(row[0], row[1 + column], kernel=False)
    for row in BLOCK_LINEAR + (IMAGE_BLOCK_LINEAR if image else ()):
        rules += _layer(f"blocks/{row[0]}", f"blocks.{{i}}.{row[1 + column]}", kernel=True)
    for row in BLOCK_NORM if config.cross_attn_norm else ():
        rules += _layer(f"blocks/{row[0]}", f"blocks.{{i}}.{row[1 + column]}", kernel=False)
    for row in BLOCK_RMS + (IMAGE_BLOCK_RMS if image else ()):
        rules.append(Rule(f"blocks.{{i}}.{row[1 + column]}.weight", f"blocks/{row[0]}/scale"))
    single = TOP + (FPS if config.inject_sample_info else ())
    single += POSITIONS if image and config.pos_embed_seq_len is not None else ()
    rules += [Rule(row[1 + column], row[0], row[3]) for row in single]
    return tuple(rules)


def _layer(target: str, source: str, *, kernel: bool) -> list[Rule]:
    weight = (f"{target}/kernel", LINEAR) if kernel else (f"{target}/scale", SAME)
    return [Rule(f"{source}.weight", *weight), Rule(f"{source}.bias", f"{target}/bias")]
