"""The polynomials of the released models, and which model has which."""

import numpy as np
import pytest

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.dit.config import CONFIGS, DiTConfig
from skyreels_jax.models.dit.teacache import IMAGE, TEXT, UNFITTED, teacache_coefficients


def test_every_released_model_has_its_own():
    for name, config in CONFIGS.items():
        size, resolution = name.split("-")[-2:]
        family = IMAGE[resolution] if "I2V" in name else TEXT[size]
        for column, use_ret_steps in enumerate((True, False)):
            found = teacache_coefficients(config, name=name, use_ret_steps=use_ret_steps)
            assert found == family[column]


def test_other_sizes_count_the_change_itself():
    config = DiTConfig(num_attention_heads=2, attention_head_dim=12)
    assert teacache_coefficients(config, name="tiny", use_ret_steps=False) == UNFITTED
    assert np.polyval(UNFITTED, 0.3) == 0.3


def test_an_image_model_must_say_its_resolution():
    config = CONFIGS["SkyReels-V2-I2V-14B-720P"]
    with pytest.raises(UserError, match="540P or 720P"):
        teacache_coefficients(config, name="my-model", use_ret_steps=True)
