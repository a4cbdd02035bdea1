import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_mrissl.augment.crops import (
    CenterCrop,
    RandomResizedCrop,
    Resize,
    draw_crop,
    draw_foreground_crop,
)
from jax_mrissl.augment.resampling import crop_and_resize

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
    expected = np.asarray(cut.resize((size, size), PILLOW[interpolation]))
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


@pytest.mark.parametrize('size', [5, 8, 13, 40])
def test_a_centre_crop_copies_pixels_and_is_black_around_them(size):
    pixels = picture(24, 20).astype(np.float32) / 255
    top, left, height, width = box = 3, 2, 18, 11
    found = CenterCrop(size)(jax.random.key(0), jnp.asarray(pixels), jnp.array(box))
    expected = np.zeros((size, size, 1), np.float32)
    for row in range(size):
        for column in range(size):
            y = row + (height - size) // 2
            x = column + (width - size) // 2
            if 0 <= y < height and 0 <= x < width:
                expected[row, column] = pixels[top + y, left + x]
    np.testing.assert_array_equal(found, expected)


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


def masked_canvas(height=60, width=48, seed=0):
    """A bright ellipse on black, as a skull-stripped brain, off the centre."""
    y, x = np.mgrid[:height, :width]
    inside = ((y - 26) / 17) ** 2 + ((x - 20) / 12) ** 2 < 1
    noise = np.random.default_rng(seed).uniform(0.2, 1.0, (height, width))
    return (inside * noise).astype(np.float32)[..., None]


@jax.jit
def _draw_foreground_crops(keys, foreground, box, share, scale):
    def draw(key):
        ratio = (3 / 4, 4 / 3)
        return jnp.stack(
            draw_foreground_crop(
                key, foreground, box, scale=scale, ratio=ratio, share=share
            )
        )

    return jax.vmap(draw)(keys)


def many_foreground_crops(canvas, box, share, scale=(0.08, 1.0)):
    keys = jax.random.split(jax.random.key(0), 400)
    foreground = canvas[..., 0] > 0
    crops = _draw_foreground_crops(keys, foreground, np.int32(box), share, scale)
    return np.asarray(crops)


def share_of(canvas, box, crop):
    top, left, height, width = crop
    top, left = box[0] + top, box[1] + left
    return (canvas[top : top + height, left : left + width] > 0).mean()


@pytest.mark.parametrize('box', [(0, 0, 60, 48), (4, 6, 50, 40)])
def test_crops_of_a_masked_image_show_the_share_that_is_asked_for(box):
    canvas, asked = masked_canvas(), 0.3
    crops = many_foreground_crops(canvas, box, asked)
    assert (crops[:, :2] >= 0).all()
    assert (crops[:, 0] + crops[:, 2] <= box[2]).all()
    assert (crops[:, 1] + crops[:, 3] <= box[3]).all()
    shares = np.array([share_of(canvas, box, crop) for crop in crops])
    assert shares.min() >= asked
    # Nothing is gained by itself: of crops that ask for nothing some show less.
    free = many_foreground_crops(canvas, box, 0.0)
    assert np.mean([share_of(canvas, box, crop) < asked for crop in free]) > 0.04


def test_the_first_crop_that_holds_enough_is_taken_else_the_fullest():
    """The same ten draws, chosen from by numpy loops."""
    canvas, box, scale = masked_canvas(), (2, 3, 40, 45), (0.08, 1.0)
    for asked in (0.3, 0.95, 1.0):
        found = many_foreground_crops(canvas, box, asked, scale)[:60]
        fallbacks = 0
        keys = jax.random.split(jax.random.key(0), 400)[:60]
        for key, crop in zip(keys, found, strict=True):
            size_key, place_key = jax.random.split(key)
            area, ratio = np.asarray(jax.random.uniform(size_key, (2, 10)))
            v, u = np.asarray(jax.random.uniform(place_key, (2, 10)))
            area = box[2] * box[3] * (scale[0] + (scale[1] - scale[0]) * area)
            ratio = np.exp(np.log(3 / 4) + np.log(16 / 9) * ratio)
            candidates = []
            for i in range(10):
                w = round(float(np.sqrt(area[i] * ratio[i])))
                h = round(float(np.sqrt(area[i] / ratio[i])))
                if h <= box[2] and w <= box[3]:
                    top, left = (
                        int(v[i] * (box[2] - h + 1)),
                        int(u[i] * (box[3] - w + 1)),
                    )
                    candidates.append((top, left, h, w))
            shares = [share_of(canvas, box, c) for c in candidates]
            enough = [c for c, s in zip(candidates, shares, strict=True) if s >= asked]
            fallbacks += not enough
            expected = enough[0] if enough else candidates[int(np.argmax(shares))]
            np.testing.assert_array_equal(crop, expected)
        assert asked == 0.3 or fallbacks > 3


def test_an_empty_image_and_a_part_that_nothing_fits_still_give_a_crop():
    empty = np.zeros((60, 48, 1), np.float32)
    crops = many_foreground_crops(empty, (0, 0, 60, 48), 0.5)
    assert (crops[:, 2:] > 0).all()
    flat = many_foreground_crops(empty, (5, 0, 4, 40), 0.5, (1.0, 1.0))
    np.testing.assert_array_equal(flat, [[0, 17, 4, 5]] * 400)


def test_no_foreground_asked_for_gives_the_plain_draws():
    canvas, box = jnp.asarray(masked_canvas()), jnp.array([0, 0, 60, 48])
    crop = RandomResizedCrop(16, foreground=0.0)

    def plain(key):
        drawn = draw_crop(key, box[2], box[3], scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
        return crop_and_resize(canvas, *drawn, size=16, interpolation='bicubic')

    keys = jax.random.split(jax.random.key(0), 20)
    found = jax.jit(jax.vmap(lambda key: crop(key, canvas, box)))(keys)
    np.testing.assert_array_equal(found, jax.jit(jax.vmap(plain))(keys))
    # And costs nothing: the integral image is not even traced.
    args = (jax.random.key(0), canvas, box)
    assert 'cumsum' not in str(jax.make_jaxpr(crop)(*args))
    asking = RandomResizedCrop(16, foreground=0.3)
    assert 'cumsum' in str(jax.make_jaxpr(asking)(*args))


@pytest.mark.parametrize('fields', [{'foreground': -0.1}, {'foreground': 1.1}])
def test_a_share_that_is_none_is_refused(fields):
    with pytest.raises(ValueError, match='from 0 to 1'):
        RandomResizedCrop(16, **fields)
