"""Model folders: recognised, loaded, saved, converted both ways; and how bad ones are refused."""

import json
import pathlib
import shutil

import diffusers
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax import nnx

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.models.dit.config import DiTConfig, from_official
from skyreels_jax.models.layout import (
    KINDS,
    SETTINGS,
    abstract_model,
    load_component,
    read_folder,
    save_component,
    write_index,
)
from skyreels_jax.models.transfer import to_official
from skyreels_jax.models.umt5.config import XXL, UMT5Config
from skyreels_jax.models.vae.config import VAEConfig
from skyreels_jax.pipelines.convert import convert
from skyreels_jax.testing.stored import source_shapes
from skyreels_jax.weights.reader import open_source

CONFIGS = {
    "vae": VAEConfig(base_dim=4, z_dim=4, num_res_blocks=1, dim_mult=(1, 2, 2, 2),
                     latents_mean=(0.5,) * 4, latents_std=(2.0,) * 4),
    "text_encoder": UMT5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2),
    "transformer": DiTConfig(num_attention_heads=2, attention_head_dim=8, in_channels=4, text_dim=8,
                             out_channels=4, freq_dim=8, ffn_dim=16, num_layers=2),
}  # fmt: skip


def random_tree(name, dtype, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(dtype),
        abstract_model(name, CONFIGS[name])[1],
    )


def save_tokenizer(folder):
    model = tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A tiny diffusers folder in three precisions, as the real ones mix them."""
    folder = tmp_path_factory.mktemp("layout") / "tiny"
    dtypes = {"vae": np.float32, "text_encoder": ml_dtypes.bfloat16, "transformer": np.float16}
    for name, dtype in dtypes.items():
        save_component(folder / name, name, CONFIGS[name], random_tree(name, dtype))
    save_tokenizer(folder / "tokenizer")
    write_index(folder)
    (folder / SETTINGS).write_text('{"fps": 12}')
    return folder


@pytest.fixture
def model(saved, tmp_path):
    """A copy of the tiny folder to be damaged."""
    return pathlib.Path(shutil.copytree(saved, tmp_path / "tiny"))


def bits(folder):
    """Returns {file: {tensor: bytes}} of every safetensors file or folder of a diffusers folder."""
    found = {}
    for name in CONFIGS:
        source = open_source(folder / name)
        found[name] = {
            key: (source.dtype(key), source.shape(key), source.read(key).tobytes())
            for key in source.keys()  # noqa: SIM118
        }
    return found


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_folder_is_recognised_and_loaded(saved):
    folder = read_folder(saved)
    assert folder.form == "diffusers" and folder.tokenizer == saved / "tokenizer"
    assert {name: part.config for name, part in folder.components.items()} == CONFIGS
    assert folder.scheduler["flow_shift"] == 8.0
    for name, part in folder.components.items():
        module = load_component(part, dtype=jnp.float32)
        assert isinstance(module, KINDS[name].model)
        loaded = nnx.to_pure_dict(nnx.split(module)[1])
        dtype = open_source(part.weights).dtype(open_source(part.weights).keys()[0])
        for (path, leaf), (_, kept) in zip(
            named_leaves(loaded), named_leaves(random_tree(name, dtype)), strict=True
        ):
            assert leaf.dtype == jnp.float32
            np.testing.assert_array_equal(leaf, kept.astype(np.float32), err_msg=path)


def test_a_loaded_module_runs(saved):
    encoder = load_component(read_folder(saved).components["text_encoder"], dtype=jnp.bfloat16)
    out = encoder(jnp.zeros((1, 3), jnp.int32), jnp.ones((1, 3), bool))
    assert out.dtype == jnp.bfloat16 and out.shape == (1, 3, 8)


def test_diffusers_loads_the_folder(saved):
    pipeline = diffusers.SkyReelsV2Pipeline.from_pretrained(saved)
    assert pipeline.scheduler.config.flow_shift == 8.0
    for name in CONFIGS:
        theirs = getattr(pipeline, name).state_dict()
        source = open_source(saved / name)
        for key in source.keys():  # noqa: SIM118
            assert theirs[key].dtype == torch.float32
            np.testing.assert_array_equal(theirs[key], source.read(key).astype(np.float32))
        assert theirs.keys() - set(source.keys()) <= {"encoder.embed_tokens.weight"}


def test_there_and_back_is_bit_exact(saved, tmp_path):
    convert(saved, tmp_path / "official", form="official", max_shard_bytes=4000)
    official = read_folder(tmp_path / "official")
    assert official.form == "official"
    assert {name: part.config for name, part in official.components.items()} == CONFIGS
    assert len(list((tmp_path / "official").glob("model-*.safetensors"))) > 1
    state = torch.load(tmp_path / "official" / KINDS["text_encoder"].official, weights_only=True)
    assert state["blocks.1.ffn.gate.0.weight"].dtype == torch.bfloat16
    convert(tmp_path / "official", tmp_path / "back", form="diffusers")
    back = read_folder(tmp_path / "back")
    assert bits(saved) == bits(tmp_path / "back")
    assert back.scheduler == read_folder(saved).scheduler
    for file in ("model_index.json", SETTINGS, *(f"{name}/config.json" for name in CONFIGS)):
        assert json.loads((saved / file).read_text()) == json.loads(
            (tmp_path / "back" / file).read_text()
        )
    convert(tmp_path / "back", tmp_path / "again", form="official")
    again = read_folder(tmp_path / "again")
    for name in CONFIGS:
        first, second = (open_source(f.components[name].weights) for f in (official, again))
        for key in first.keys():  # noqa: SIM118
            assert first.read(key).tobytes() == second.read(key).tobytes()


def test_conversion_casts_on_request(saved, tmp_path):
    convert(saved, tmp_path / "half", form="diffusers", dtype="bfloat16")
    for kept, cast in zip(bits(saved).values(), bits(tmp_path / "half").values(), strict=True):
        for key, (dtype, shape, data) in kept.items():
            array = np.frombuffer(data, dtype).reshape(shape).astype(ml_dtypes.bfloat16)
            assert cast[key] == (ml_dtypes.bfloat16, shape, array.tobytes())


def test_an_official_folder_without_our_file_is_the_released_one(saved, tmp_path):
    target = tmp_path / "SkyReels-V2-DF-1.3B-540P"
    convert(saved, target, form="official")
    (target / "diffusers_configs.json").unlink()
    folder = read_folder(target)
    assert folder.components["vae"].config == VAEConfig()
    assert folder.components["text_encoder"].config == XXL
    assert folder.pipeline == "SkyReelsV2DiffusionForcingPipeline"
    with pytest.raises(UserError, match=r"Wan2.1_VAE.pth does not hold this model .* mis-shaped"):
        load_component(folder.components["vae"])


def test_an_official_folder_that_nobody_named_is_not_guessed_at(saved, tmp_path):
    """T2V and DF have the same files: what is for the one makes noise as the other."""
    target = tmp_path / "mine"
    convert(saved, target, form="official")
    extra = target / "diffusers_configs.json"
    values = json.loads(extra.read_text())
    edit(extra, pipeline="SkyReelsV2DiffusionForcingPipeline")
    assert read_folder(target).pipeline == "SkyReelsV2DiffusionForcingPipeline"
    edit(extra, pipeline="SkyReelsV2ImageToVideoPipeline")
    with pytest.raises(UserError, match="is for 'SkyReelsV2ImageToVideoPipeline'; legal here: Sky"):
        read_folder(target)
    del values["pipeline"]
    extra.write_text(json.dumps(values))
    for name, kind in [
        ("skyreels_v2_df_14b", "SkyReelsV2DiffusionForcingPipeline"),
        ("SkyReels-V2-T2V-14B-720P", "SkyReelsV2Pipeline"),
    ]:
        assert read_folder(target, model_id=f"some/{name}").pipeline == kind
        (tmp_path / name).symlink_to(target)
        assert read_folder(tmp_path / name).pipeline == kind
    for name in (None, "some/pdf", "some/t2v-df"):
        folder = read_folder(target, model_id=name)  # VAE and text encoder are the same in both
        assert folder.components["text_encoder"].config == CONFIGS["text_encoder"]
        with pytest.raises(UserError, match=r"legal: T2V or DF in it.*DiffusionForcingPipeline\)$"):
            _ = folder.pipeline


LARGE = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
SMALL = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}
RELEASED = {
    "T2V-14B": {**LARGE, "model_type": "t2v"},
    "I2V-14B": {**LARGE, "model_type": "i2v", "in_dim": 36},
    "DF-1.3B": {**SMALL, "inject_sample_info": True},
}


@pytest.mark.parametrize("values", RELEASED.values(), ids=RELEASED)
def test_official_configs(values):
    config = from_official({"_class_name": "WanModel", "text_len": 512, **values})
    assert from_official(to_official(config)) == config
    assert to_official(config).items() >= values.items()
    shapes = source_shapes(
        KINDS["transformer"].official_table(config), abstract_model("transformer", config)[1]
    )
    assert shapes["blocks.0.self_attn.q.weight"] == (values["dim"],) * 2
    assert ("img_emb.proj.1.weight" in shapes) == (config.image_dim is not None)


def test_a_config_without_official_form():
    with pytest.raises(UserError, match="no place for rope_max_seq_len=2048"):
        to_official(DiTConfig(rope_max_seq_len=2048))


def swap_weights(model):
    for name in ("vae", "transformer"):
        (model / name / "diffusion_pytorch_model.safetensors").rename(model / f"{name}.tmp")
    (model / "vae.tmp").rename(model / "transformer" / "diffusion_pytorch_model.safetensors")
    (model / "transformer.tmp").rename(model / "vae" / "diffusion_pytorch_model.safetensors")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


DAMAGE = {
    "no folder": (shutil.rmtree, "no such model folder"),
    "empty": (lambda m: [shutil.rmtree(m), m.mkdir()], "not a model folder; expected model_index"),
    "parts missing": (
        lambda m: [shutil.rmtree(m / "vae"), shutil.rmtree(m / "tokenizer")],
        "missing vae/config.json, tokenizer/tokenizer_config.json",
    ),
    "bad json": (lambda m: (m / "vae/config.json").write_text("{"), "not readable as json"),
    "no object": (lambda m: (m / "vae/config.json").write_text("[]"), "expected a json object"),
    "other pipeline": (
        lambda m: edit(m / "model_index.json", _class_name="StableDiffusionPipeline"),
        "is for StableDiffusionPipeline; legal: SkyReelsV2Pipeline",
    ),
    "other model": (
        lambda m: edit(m / "transformer/config.json", _class_name="UNet2DConditionModel"),
        "expected 'SkyReelsV2Transformer3DModel'",
    ),
    "unknown key": (lambda m: edit(m / "vae/config.json", z_dims=3), "did you mean 'z_dim'"),
    "no weights": (lambda m: (m / "text_encoder/model.safetensors").unlink(), "no weights"),
    "truncated": (
        lambda m: truncate(m / "text_encoder/model.safetensors"),
        "not a complete safetensors file",
    ),
    "other architecture": (swap_weights, r"vae does not hold this model .*: \d+ missing, \d+ unk"),
    "other depth": (
        lambda m: edit(m / "transformer/config.json", num_layers=3),
        "missing blocks.2.",
    ),
    "unused image encoder": (
        lambda m: (m / "image_encoder").mkdir(),
        "image_encoder is no part of a SkyReelsV2Pipeline; move it away",
    ),
    "text model as image model": (
        lambda m: edit(m / "model_index.json", _class_name="SkyReelsV2ImageToVideoPipeline"),
        "missing image_encoder/config.json, image_processor",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_bad_folders_are_refused_and_nothing_is_written(model, tmp_path, damage, message):
    damage(model)
    with pytest.raises(UserError, match=message):
        convert(model, tmp_path / "out", form="official")
    assert {p.name for p in tmp_path.iterdir()} <= {"tiny"}


def test_a_failure_half_way_leaves_nothing(model, tmp_path):
    tree = random_tree("text_encoder", np.float32)
    tree["embedding"][3, 3] = 1e6
    save_component(model / "text_encoder", "text_encoder", CONFIGS["text_encoder"], tree)
    with pytest.raises(UserError, match="shared.weight holds values beyond float16"):
        convert(model, tmp_path / "out", form="diffusers", dtype="float16")
    assert {p.name for p in tmp_path.iterdir()} == {"tiny"}


def test_an_existing_or_unwritable_target_is_refused(saved, tmp_path):
    with pytest.raises(UserError, match="exists; name a new folder"):
        convert(saved, tmp_path, form="diffusers")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        convert(saved, tmp_path / "file" / "out", form="diffusers")
