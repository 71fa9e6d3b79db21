"""TeaCache polynomials of the released models (`initialize_teacache` of the official code)."""

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.dit.config import DiTConfig

Coefficients = tuple[float, ...]  # highest power first
SIZES = {1536: "1.3B", 5120: "14B"}  # by width
# (change of the blocks' modulation: "retention steps"; change of the time embedding)
TEXT: dict[str, tuple[Coefficients, Coefficients]] = {
    "1.3B": (
        (-5.21862437e04, 9.23041404e03, -5.28275948e02, 1.36987616e01, -4.99875664e-02),
        (2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01),
    ),
    "14B": (
        (-3.03318725e05, 4.90537029e04, -2.65530556e03, 5.87365115e01, -3.15583525e-01),
        (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    ),
}
IMAGE: dict[str, tuple[Coefficients, Coefficients]] = {
    "540P": (
        (2.57151496e05, -3.54229917e04, 1.40286849e03, -1.35890334e01, 1.32517977e-01),
        (-3.02331670e02, 2.23948934e02, -5.25463970e01, 5.87348440e00, -2.01973289e-01),
    ),
    "720P": (
        (8.10705460e03, 2.13393892e03, -3.72934672e02, 1.66203073e01, -4.17769401e-02),
        (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
    ),
}
UNFITTED: Coefficients = (1.0, 0.0)


def teacache_coefficients(config: DiTConfig, *, name: str, use_ret_steps: bool) -> Coefficients:
    """Returns the polynomial of a model: fitted ones for the released sizes, else x itself.

    name: of the model; 540P and 720P image models differ in nothing else.
    Raises `UserError` for an image model of a released size whose name does not say which it is.
    """
    column = 0 if use_ret_steps else 1
    size = SIZES.get(config.width)
    if size is None:
        return UNFITTED
    if config.image_dim is None:
        return TEXT[size][column]
    found = [resolution for resolution in IMAGE if resolution in name]
    if len(found) != 1:
        raise UserError(
            f"teacache has other coefficients for 540P than for 720P image models, and the name "
            f"{name!r} does not say which it is; legal: a name with 540P or 720P"
        )
    return IMAGE[found[0]][column]
