"""Records of 16 bits: all values to the device, and there through their window."""

import jax
import numpy as np
import pytest
from conftest import write_ct
from PIL import Image

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.policy import make_views
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.pipeline import Rows, fetch, resident
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared

SIDE = 24


def prepare(raw, tmp_path, **options):
    own = OwnFolder(name='deep')
    return prepare_dataset(
        'folder', [raw], tmp_path, canvas=SIDE, workers=1, own=own, **options
    )


def on_device(prepared):
    """Gives the batch of all rows, as a compiled step receives it."""
    source = resident(prepared)
    rows = Rows(np.arange(len(prepared)), np.ones(len(prepared), np.float32))
    return jax.device_get(jax.jit(fetch)(source, rows))


def test_a_png_of_16_bits_reaches_the_device_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1 << 16, (3, SIDE, SIDE), np.uint16)
    raw = tmp_path / 'raw'
    raw.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(raw / f'{index}.png')
    card = prepare(raw, tmp_path, bits=16).card
    assert (card['bits'], card['channels']) == (16, 1)
    batch = on_device(open_prepared(tmp_path, 'deep'))
    assert batch.image.dtype == np.uint16
    assert {x.tobytes() for x in batch.image} == {x.tobytes() for x in pixels}


def test_hounsfield_units_are_seen_through_any_window(tmp_path):
    units = np.linspace(-1000, 1500, SIDE * SIDE).astype(int).reshape(SIDE, SIDE)
    write_ct(tmp_path / 'raw' / 'one.dcm', units)
    prepare(tmp_path / 'raw', tmp_path, bits=16)
    prepared = open_prepared(tmp_path, 'deep')
    batch = on_device(prepared)
    np.testing.assert_array_equal(batch.image[0, :, :, 0], units + 1000)
    # Of soft tissue: the declaration's, level 40 and width 400.
    np.testing.assert_allclose(batch.window, [[-160 + 1000, 240 + 1000]])

    def look(*ops):
        policy = build_policy([dict(name='resize', size=SIDE), *ops], where='view')
        [view] = make_views(jax.random.key(0), batch, (policy,), np.arange(1))
        return np.asarray(view)[0, :, :, 0]

    np.testing.assert_allclose(look(), np.clip((units + 160) / 400, 0, 1), atol=1e-5)
    wide = dict(name='window_jitter', width=(6.0, 6.0), level=0.0, probability=1.0)
    expected = np.clip((units - 40) / 2400 + 0.5, 0, 1)
    np.testing.assert_allclose(look(wide), expected, atol=1e-5)
    eyes = 255 * np.clip((units + 160) / 400, 0, 1)
    shown = prepared.shown_images()[0, :, :, 0]
    np.testing.assert_allclose(shown, eyes, atol=0.51)


def test_pixels_that_fill_are_black_and_series_share_their_levels(tmp_path):
    units = np.full((SIDE, SIDE), 50)
    units[0, 0], units[1, 1] = -1024, 3071 - 1024
    write_ct(tmp_path / 'raw' / '1.dcm', units, PixelPaddingValue=0)
    units[2, 2] = -900
    write_ct(tmp_path / 'raw' / '2.dcm', units, PixelPaddingValue=0)
    prepare(tmp_path / 'raw', tmp_path, bits=16)
    batch = on_device(open_prepared(tmp_path, 'deep'))
    assert (batch.image[:, 0, 0, 0] == 0).all()
    np.testing.assert_array_equal(batch.window[0], batch.window[1])
    assert {int(x) for x in batch.image[:, 5, 5, 0]} == {950}


def test_pictures_among_scans_keep_their_values(tmp_path):
    picture = np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)
    (tmp_path / 'raw').mkdir()
    Image.fromarray(picture).save(tmp_path / 'raw' / 'a.png')
    prepare(tmp_path / 'raw', tmp_path, bits=16)
    batch = on_device(open_prepared(tmp_path, 'deep'))
    np.testing.assert_array_equal(batch.image[0, :, :, 0], picture)
    np.testing.assert_array_equal(batch.window, [[0, 255]])


def test_colour_and_other_depths_are_refused(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    (tmp_path / 'raw').mkdir()
    Image.fromarray(colour).save(tmp_path / 'raw' / 'a.png')
    with pytest.raises(UserError, match='1 here are in colour'):
        prepare(tmp_path / 'raw', tmp_path, bits=16)
    with pytest.raises(UserError, match='neither 8 nor 16'):
        prepare(tmp_path / 'raw', tmp_path, bits=12)


def test_a_set_of_8_bits_is_not_taken_for_one_of_16(tmp_path):
    (tmp_path / 'raw').mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'raw' / 'a.png')
    prepare(tmp_path / 'raw', tmp_path)
    assert open_prepared(tmp_path, 'deep').windows is None
    with pytest.raises(UserError, match='8 bits'):
        prepare(tmp_path / 'raw', tmp_path, bits=16)
