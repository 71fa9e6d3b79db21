"""Images from outside: read, turned, oriented, cut to the aspect of a film, resized; bad ones."""

import numpy as np
import pytest
from PIL import Image

from skyreels_jax.core.errors import UserError
from skyreels_jax.pipelines.image import crop_to_aspect, oriented, read_still, resize


def noise(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def test_a_file_a_pillow_image_and_an_array_are_the_same_image(tmp_path):
    pixels = noise(6, 9)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    stills = [read_still(x) for x in (tmp_path / "a.png", Image.fromarray(pixels), pixels)]
    for still in stills:
        np.testing.assert_array_equal(still.pixels, pixels)
    assert [still.path for still in stills] == [str(tmp_path / "a.png"), None, None]
    assert len({still.sha256 for still in stills}) == 1
    assert read_still(pixels.reshape(9, 6, 3)).sha256 != stills[0].sha256


def test_exif_and_transparency(tmp_path):
    turned = Image.fromarray(noise(4, 8))
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(
        read_still(tmp_path / "a.png").pixels, np.rot90(noise(4, 8), axes=(1, 0))
    )
    clear = Image.fromarray(np.dstack([noise(4, 4), np.zeros((4, 4), np.uint8)]))
    np.testing.assert_array_equal(read_still(clear).pixels, noise(4, 4))
    assert read_still(Image.new("L", (3, 2), 7)).pixels.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("image", "size", "film"),
    [
        ((40, 90), (544, 960), (544, 960)),
        ((90, 40), (544, 960), (960, 544)),
        ((90, 40), (960, 544), (960, 544)),
        ((40, 90), (960, 544), (960, 544)),
        ((90, 40), (64, 64), (64, 64)),
    ],
)
def test_upright_images_make_upright_films(image, size, film):
    assert oriented(noise(*image), *size) == film


@pytest.mark.parametrize(
    ("size", "top", "left", "cut"),
    [
        ((100, 100), 25, 0, (50, 100)),
        ((20, 100), 0, 30, (20, 40)),
        ((30, 60), 0, 0, (30, 60)),
        ((1, 90), 0, 44, (1, 2)),
        ((90, 1), 44, 0, (1, 1)),
    ],
)
def test_the_middle_of_the_right_aspect_is_kept(size, top, left, cut):
    pixels = noise(*size)
    kept = crop_to_aspect(pixels, 16, 32)
    np.testing.assert_array_equal(kept, pixels[top : top + cut[0], left : left + cut[1]])


def test_resizing_is_that_of_diffusers():
    from diffusers.video_processor import VideoProcessor

    pixels = noise(37, 50)
    theirs = VideoProcessor(vae_scale_factor=8).preprocess(Image.fromarray(pixels), 32, 48)
    ours = resize(pixels, 32, 48).astype(np.float32) / 255 * 2 - 1
    np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert resize(pixels, 37, 50) is pixels


def test_bad_images(tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("absent.png", "cannot read image .*absent.png': No such file"),
        ("cut.png", "cannot read image .*cut.png'"),
        ("text.png", "text.png' is not an image"),
        ("empty.png", "empty.png' is not an image"),
        (".", "cannot read image .* directory"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read_still(tmp_path / name)
        assert "\n" not in str(caught.value)
    for array in (noise(4, 4).astype(np.float32), noise(4, 4)[..., 0], [[1, 2]], 3):
        with pytest.raises(UserError, match=r"uint8 \[H, W, 3\], got"):
            read_still(array)
