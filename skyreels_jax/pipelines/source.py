"""A model before its weights: configurations, tokenizer, defaults, and the checks they allow."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx
from jax.sharding import Sharding

from skyreels_jax.core.config import to_dict
from skyreels_jax.core.errors import UserError
from skyreels_jax.models import layout
from skyreels_jax.models.clip.preprocess import CLIPImageConfig
from skyreels_jax.models.dit.teacache import teacache_coefficients
from skyreels_jax.models.text_to_video import TextToVideo
from skyreels_jax.models.umt5.text import clean_prompt
from skyreels_jax.models.umt5.tokenizer import FolderTokenizer
from skyreels_jax.nn.whole import taken_apart
from skyreels_jax.parallel.mesh import MeshConfig
from skyreels_jax.pipelines import validate
from skyreels_jax.pipelines.cache import enable_compilation_cache
from skyreels_jax.pipelines.defaults import Defaults, read_defaults
from skyreels_jax.pipelines.divided import Divided, DividedModel, DividedVAE, places
from skyreels_jax.pipelines.fingerprint import weights_state
from skyreels_jax.pipelines.generate import MAX_TOKENS
from skyreels_jax.pipelines.lora import Lora, Names, check_lora, transformer_names
from skyreels_jax.weights.params import ParamSource

if TYPE_CHECKING:
    from skyreels_jax.pipelines.model import VideoModel

FLOAT32 = ("vae", "image_encoder")  # whatever the dtype of the rest, as in the official pipelines
# What only models that were trained by diffusion forcing can be asked for.
WINDOW_OPTIONS = (
    *("endless", "seconds", "base_num_frames", "overlap_history", "addnoise_condition"),
    *("ar_step", "causal_block_size", "carry", "sink_frames", "video_path", "end_image"),
)
Modules = dict[str, nnx.Module]
Places = Mapping[str, Mapping[str, Sharding]]  # of the leaves of components, by their paths
NOWHERE: Places = types.MappingProxyType({})  # else than on the default device


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModelSource:
    """Where a model is, and what it can make.

    configs: of "vae", "transformer", "text_encoder" and, in image-to-video models, "image_encoder".
    read: (dtype, names, *, places) -> the modules with their weights; transformer and text encoder
    in `dtype`. Without names all. places: where the leaves of a component belong.
    params: weights -> the parameters of each component, to be read one by one; "ema" or "raw" of a
    training run, None: averaged ones if it kept them.
    state: what, beside the configurations, tells these weights from others.
    forcing: whether it was trained by diffusion forcing, so that films can go on without end.
    """

    model_id: str
    configs: dict[str, Any]
    defaults: Defaults
    load_tokenizer: Callable[[], Any]
    read: Callable[..., Modules]
    params: Callable[[str | None], dict[str, ParamSource]]
    state: Callable[[], bytes]
    image_processor: CLIPImageConfig | None = None
    forcing: bool = False

    def __post_init__(self):
        vae, transformer, text = (self.configs[k] for k in ("vae", "transformer", "text_encoder"))
        channels = vae.z_dim
        if self.takes_image:
            self._check_image_parts()
            channels += vae.temporal_factor + vae.z_dim  # mask and image
        out = transformer.out_channels or transformer.in_channels
        if (transformer.in_channels, out) != (channels, vae.z_dim):
            raise UserError(
                f"{self.model_id}: the transformer has {transformer.in_channels} channels in and "
                f"{out} out; with its VAE it needs {channels} in and {vae.z_dim} out"
            )
        if transformer.text_dim != text.d_model:
            raise UserError(
                f"{self.model_id}: the transformer reads text of width {transformer.text_dim}, "
                f"its text encoder writes {text.d_model}"
            )

    def _check_image_parts(self) -> None:
        transformer, encoder = self.configs["transformer"], self.configs.get("image_encoder")
        if encoder is None or self.image_processor is None:
            raise UserError(f"{self.model_id} starts from images and has no image encoder")
        if (transformer.image_dim, encoder.image_size) != (
            encoder.hidden_size,
            self.image_processor.crop_size,
        ):
            raise UserError(
                f"{self.model_id}: the transformer reads image states of {transformer.image_dim}, "
                f"its image encoder writes {encoder.hidden_size}, of images of "
                f"{encoder.image_size} pixels where its processor makes "
                f"{self.image_processor.crop_size}"
            )
        if transformer.pos_embed_seq_len is not None:
            raise UserError(
                f"{self.model_id} needs a first and a last image (pos_embed_seq_len = "
                f"{transformer.pos_embed_seq_len}); only models with one image make films yet"
            )

    @functools.cached_property
    def tokenizer(self) -> Any:
        """What makes tokens of texts, called as tokenizers of transformers are."""
        return self.load_tokenizer()

    @property
    def geometry(self) -> validate.Geometry:
        """How pixels become tokens."""
        vae, transformer = self.configs["vae"], self.configs["transformer"]
        return validate.Geometry(
            latent_channels=vae.z_dim,
            temporal=vae.temporal_factor,
            spatial=vae.spatial_factor,
            patch=transformer.patch_size,
            max_positions=transformer.rope_max_seq_len,
            forcing=self.forcing,
            causal_block=transformer.num_frame_per_block,
        )

    @property
    def takes_image(self) -> bool:
        """Whether the model makes films of an image (and of nothing else)."""
        return self.configs["transformer"].image_dim is not None

    @property
    def tells_fps(self) -> bool:
        """Whether the transformer is told the frame rate."""
        return self.configs["transformer"].inject_sample_info

    @functools.cached_property
    def transformer_names(self) -> Names:
        """What an adapter may name."""
        return transformer_names(self.configs["transformer"])

    def loras(self, values: Any) -> tuple[Lora, ...]:
        """Returns the adapters that `values` names (see `VideoModel.generate`), checked."""
        return check_lora(values, lambda: self.transformer_names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Names these weights: configurations, and sizes and ends of the files, hashed."""
        digest = hashlib.sha256(json.dumps(to_dict(self.configs), sort_keys=True).encode())
        digest.update(self.state())
        return digest.hexdigest()[:16]

    def request(
        self, *, dtype: str | None = None, image: Any = None, lora: Any = (), **options: Any
    ) -> validate.Request:
        """Returns the checked request; see `VideoModel.generate` for the options.

        Raises `UserError` for anything that cannot be made; no weights are read for it.
        """
        if image is None and self.takes_image:
            raise UserError(
                f"{self.model_id} is an image-to-video model; give the image that films start "
                "from: --image FILE, in Python image=..."
            )
        if image is not None and not (self.takes_image or self.forcing):
            raise UserError(
                f"{self.model_id} is a text-to-video model and takes no image; image-to-video "
                "and diffusion-forcing models (SkyReels-V2-I2V, SkyReels-V2-DF) do"
            )
        self._refuse_windows(options)
        request = validate.make_request(
            self.defaults,
            self.geometry,
            dtype=dtype or default_dtype(),
            image=image,
            lora=self.loras(lora),
            coefficients=functools.partial(
                teacache_coefficients, self.configs["transformer"], name=self.model_id
            ),
            **options,
        )
        self.check_texts((*request.prompts, request.negative_prompt))
        return request

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raises `UserError` for a text of more tokens than the model reads."""
        counts = [len(self.tokenizer(clean_prompt(t), verbose=False)["input_ids"]) for t in texts]
        validate.check_token_counts(texts, counts, max_length=MAX_TOKENS)

    def _refuse_windows(self, options: Mapping[str, Any]) -> None:
        given = {name: options.get(name) for name in WINDOW_OPTIONS}
        asked = [name for name, value in given.items() if value is not None and value is not False]
        if asked and not self.forcing:
            raise UserError(
                f"{self.model_id} is no diffusion-forcing model: it makes films in one go, without "
                f"{', '.join(asked)}; models of {layout.PIPELINES[1]} (SkyReels-V2-DF) make longer "
                "ones"
            )

    def load(
        self, *, dtype: str | None = None, lora: Any = (), mesh: MeshConfig | None = None
    ) -> "VideoModel":
        """Returns the model with its weights; transformer and text encoder are `dtype`.

        lora: adapters of all its films that do not say otherwise.
        mesh: how its devices share the work; None: the first makes films alone.
        Raises `UserError` for a mesh that does not fit devices or weights.
        """
        from skyreels_jax.pipelines.model import VideoModel

        dtype = validate.check_dtype(dtype or default_dtype())
        adapters = self.loras(lora)
        enable_compilation_cache()
        if mesh is None:
            modules = self.read(dtype)
        else:  # no device ever holds more than its part
            modules = self.read(dtype, places=places(self.configs, mesh))
        parts, vae = (modules["transformer"], modules["text_encoder"]), modules["vae"]
        model = TextToVideo(*parts) if mesh is None else DividedModel(*parts, config=mesh)
        vae = vae if mesh is None else DividedVAE(vae, model.mesh)
        encoder = modules.get("image_encoder")
        return VideoModel(
            self,
            dtype=dtype,
            mesh=mesh,
            model=_split(model),
            vae=_split(vae),
            image_encoder=None if encoder is None else _split(encoder),
            lora=adapters,
        )


def open_folder(
    model_id: str, path: pathlib.Path, *, fetch: Callable[[], Any] | None = None
) -> ModelSource:
    """Returns what a diffusers or official folder holds; `fetch` completes it before weights."""
    folder = layout.read_folder(path, model_id=model_id, complete=fetch is None)
    components = folder.components

    def complete() -> None:
        if fetch is not None:
            fetch()

    def read(
        dtype: str,
        names: Collection[str] = tuple(components),
        *,
        places: Places = NOWHERE,
    ) -> Modules:
        complete()
        modules = {}
        for name in (name for name in components if name in names):
            own = "float32" if name in FLOAT32 else dtype
            where = places.get(name)
            modules[name] = layout.load_component(components[name], dtype=own, shardings=where)
        return modules

    def params(weights: str | None) -> dict[str, ParamSource]:
        del weights  # there are no others
        complete()
        return {name: layout.stored_params(part) for name, part in components.items()}

    def state() -> bytes:
        complete()
        return weights_state(part.weights for part in components.values())

    return ModelSource(
        model_id=model_id,
        configs={name: part.config for name, part in components.items()},
        defaults=read_defaults(path, folder.scheduler, image=folder.image_processor is not None),
        load_tokenizer=lambda: load_tokenizer(folder.tokenizer),
        read=read,
        params=params,
        state=state,
        image_processor=folder.image_processor,
        forcing=folder.pipeline == layout.PIPELINES[1],
    )


def load_tokenizer(path: pathlib.Path) -> FolderTokenizer:
    """Returns the tokenizer of the tokenizer.json in folder `path`; `UserError` if damaged."""
    return FolderTokenizer(path)


def default_dtype() -> str:
    """Returns the type that this machine computes fastest in."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _split(model: nnx.Module) -> tuple[Any, Any]:
    graphdef, params = taken_apart(model)
    return graphdef, model.placed(params) if isinstance(model, Divided) else params
