"""Configuration of the video VAE: fields and defaults of diffusers' `AutoencoderKLWan`."""

import dataclasses

from skyreels_jax.core.errors import UserError

# Fields that occur in published config.json files and are not read, with the reason.
IGNORED_FIELDS = {
    "clip_output": "in Wan 2.2's config.json; diffusers knows no such option, it always clips",
}

_WAN21_MEAN = (
    (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
    + (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
)  # fmt: skip
_WAN21_STD = (
    (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
    + (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Shape of the VAE; the defaults are the Wan 2.1 VAE, which SkyReels-V2 uses.

    base_dim, dim_mult: width of stage i is `base_dim * dim_mult[i]`; space is halved between.
    decoder_base_dim: the decoder's own base width (None: base_dim).
    temperal_downsample: whether the encoder halves time after stage i (one entry per transition).
    attn_scales: spatial scales (1, 1/2, ...) at which encoder stages get attention; the decoder has
        none in diffusers, nor have residual encoders.
    is_residual: Wan 2.2's stages, with parameter-free pooled and repeated shortcuts.
    in_channels, out_channels: after folding `patch_size` x `patch_size` pixels into channels.
    latents_mean, latents_std: one per latent channel, used by `normalize`.
    scale_factor_temporal, scale_factor_spatial: must state what the stages give (None: filled in).

    Raises `UserError` for a combination that no model has.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = _WAN21_MEAN
    latents_std: tuple[float, ...] = _WAN21_STD
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int | None = 4
    scale_factor_spatial: int | None = 8

    def __post_init__(self):
        sizes = (self.base_dim, self.decoder_dim, self.z_dim, self.num_res_blocks, self.patch)
        if min(*sizes, *self.dim_mult, self.in_channels, self.out_channels) < 1:
            raise UserError("widths, multipliers, channels, blocks and patch_size must be positive")
        transitions = len(self.dim_mult) - 1
        if transitions < 0 or len(self.temperal_downsample) != transitions:
            raise UserError(
                f"temperal_downsample needs one entry fewer than dim_mult ({max(transitions, 0)}),"
                f" got {len(self.temperal_downsample)}"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise UserError(
                    f"{name} needs z_dim = {self.z_dim} values, got {len(getattr(self, name))}"
                )
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.patch**2:
                raise UserError(
                    f"{name} must be a multiple of patch_size**2 = {self.patch**2},"
                    f" got {getattr(self, name)}"
                )
        for name, legal in (
            ("scale_factor_temporal", self.temporal_factor),
            ("scale_factor_spatial", self.spatial_factor),
        ):
            if getattr(self, name) is None:  # diffusers cannot decode without it
                object.__setattr__(self, name, legal)
            if getattr(self, name) != legal:
                raise UserError(
                    f"{name} = {getattr(self, name)}, but dim_mult, temperal_downsample and"
                    f" patch_size give {legal}"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        scales = [2.0**-i for i in range(len(self.dim_mult))]
        unknown = set(self.attn_scales) - set(scales)
        if unknown or (self.is_residual and self.attn_scales):
            legal = "empty with is_residual" if self.is_residual else f"taken from {scales}"
            raise UserError(f"attn_scales must be {legal}, got {list(self.attn_scales)}")

    @property
    def patch(self) -> int:
        """Side of the pixel square folded into channels (1: none)."""
        return self.patch_size or 1

    @property
    def decoder_dim(self) -> int:
        """Base width of the decoder."""
        return self.base_dim if self.decoder_base_dim is None else self.decoder_base_dim

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.temperal_downsample)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel, along each side."""
        return 2 ** (len(self.dim_mult) - 1) * self.patch

    def widths(self, base: int) -> tuple[int, ...]:
        """Channels entering stage 0, then leaving every stage, for base width `base`."""
        return tuple(base * m for m in (1, *self.dim_mult))
