import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_mrissl.augment.geometry import (
    RandomResizedCrop,
    Resize,
    crop_and_resize,
    draw_crop,
    rotate,
)

PILLOW = {
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
}


def picture(height, width, channels=1, seed=0):
    """Smooth and sharp at once: blurred noise with a bright bar."""
    rng = np.random.default_rng(seed)
    pixels = rng.random((height, width, channels))
    pixels = ndimage.gaussian_filter(pixels, (2, 2, 0))
    pixels = (pixels - pixels.min()) / np.ptp(pixels)
    pixels[height // 3 : height // 2, width // 4 :] = 1.0
    return np.round(pixels * 255).astype(np.uint8)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
    'box', [(0, 0, 40, 50), (3, 5, 20, 31), (10, 20, 7, 5), (39, 49, 1, 1)]
)
@pytest.mark.parametrize('size', [16, 33])
def test_crop_and_resize_equals_pillow(interpolation, box, size):
    pixels = picture(40, 50)
    top, left, height, width = box
    found = crop_and_resize(
        jnp.float32(pixels) / 255,
        *(jnp.int32(v) for v in box),
        size=size,
        interpolation=interpolation,
    )
    # Pillow's float mode has no 8-bit rounding between its two passes.
    image = Image.fromarray(np.float32(pixels[..., 0]) / 255, 'F')
    cut = image.crop((left, top, left + width, top + height))
    expected = np.clip(cut.resize((size, size), PILLOW[interpolation]), 0, 1)
    # Largest error seen: 4e-7.
    np.testing.assert_allclose(found[..., 0], expected, atol=2e-6)


def test_crops_draw_boxes_as_torchvision_does():
    keys = jax.random.split(jax.random.key(0), 20_000)
    side = jnp.int32(1000)
    draw = jax.jit(
        jax.vmap(
            lambda key: jnp.stack(
                draw_crop(key, side, side, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
            )
        )
    )
    top, left, height, width = np.asarray(draw(keys)).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1000).all() and (left + width <= 1000).all()
    ratio = width / height
    assert ratio.min() > 0.748 and ratio.max() < 1.337
    # The mean accepted share of the area, by independent simulation: 0.481.
    np.testing.assert_allclose((height * width / 1e6).mean(), 0.481, atol=0.006)
    for start, length in ((top, height), (left, width)):
        free = 1000 - length
        place = start[free > 50] / free[free > 50]
        np.testing.assert_allclose(
            np.quantile(place, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02
        )


@pytest.mark.parametrize(
    ('height', 'width', 'expected'), [(10, 100, (10, 13)), (100, 10, (13, 10))]
)
def test_a_crop_that_never_fits_is_central(height, width, expected):
    box = draw_crop(
        jax.random.key(0),
        jnp.int32(height),
        jnp.int32(width),
        scale=(1.0, 1.0),
        ratio=(3 / 4, 4 / 3),
    )
    top, left, h, w = (int(v) for v in box)
    assert (h, w) == expected
    assert (top, left) == ((height - h) // 2, (width - w) // 2)


@pytest.mark.parametrize('crop', [RandomResizedCrop(16), Resize(16)])
def test_no_pixel_outside_the_box_enters_a_view(crop):
    canvas = np.full((32, 32, 1), 1.0, np.float32)
    canvas[5:25, 9:21] = 0.25
    box = jnp.array([5, 9, 20, 12])
    views = jax.jit(jax.vmap(lambda key: crop(key, jnp.asarray(canvas), box)))(
        jax.random.split(jax.random.key(0), 200)
    )
    np.testing.assert_allclose(views, 0.25, atol=1e-6)


def test_random_crops_differ_and_a_whole_crop_is_a_resize():
    canvas = jnp.float32(picture(32, 32)) / 255
    box = jnp.array([0, 0, 32, 32])
    keys = jax.random.split(jax.random.key(0), 2)
    one, two = (RandomResizedCrop(16)(key, canvas, box) for key in keys)
    assert np.abs(one - two).max() > 0.1
    whole = RandomResizedCrop(16, (1.0, 1.0), (1.0, 1.0), 'bilinear')
    np.testing.assert_allclose(
        whole(keys[0], canvas, box), Resize(16)(keys[0], canvas, box), atol=1e-6
    )


@pytest.mark.parametrize('degrees', [-10.0, 0.0, 3.5, 90.0])
@pytest.mark.parametrize('shape', [(31, 31, 1), (32, 20, 3)])
def test_rotation_equals_scipy(degrees, shape):
    pixels = np.float32(picture(*shape)) / 255
    found = rotate(jnp.asarray(pixels), jnp.float32(degrees))
    # SciPy's `rotate` with axes (1, 0) turns counter-clockwise as seen, too. Its
    # 'constant' mode does not interpolate beyond the edge; 'grid-constant' does, as
    # JAX does.
    expected = ndimage.rotate(
        pixels, degrees, axes=(1, 0), reshape=False, order=1, mode='grid-constant'
    )
    # Largest error seen: 6e-6, where a coordinate falls on a pixel's edge.
    np.testing.assert_allclose(found, expected, atol=5e-5)
