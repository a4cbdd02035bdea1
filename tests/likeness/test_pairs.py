"""Twins are found in any orientation; what is not alike is not paired."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jax_mrissl.likeness import hashes, orientation, search
from jax_mrissl.likeness.compare import details_alike
from jax_mrissl.likeness.pairs import KINDS, NEAR, TWIN, Pictures, find_pairs


def textures(count, seed=0):
    """Draws smooth textures with the falling spectrum of photographs, uint8."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None, :])
    frequency[0, 0] = 1
    shape = count, *frequency.shape
    noise = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    drawn = np.fft.irfft2(noise / frequency**1.5, s=(64, 64))
    drawn -= drawn.mean(axis=(1, 2), keepdims=True)
    drawn *= 45 / drawn.std(axis=(1, 2), keepdims=True)
    return np.clip(drawn + 110, 0, 255).astype(np.uint8)


def resized(picture, size):
    image = Image.fromarray(picture)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def as_jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file))


CHANGES = {
    'nothing': lambda x: x,
    'three quarters the size': lambda x: resized(resized(x, 48), 64),
    'half the size': lambda x: resized(resized(x, 32), 64),
    'JPEG': lambda x: as_jpeg(x, 60),
    'brighter': lambda x: np.clip(x.astype(int) + 25, 0, 255).astype(np.uint8),
    'less contrast': lambda x: (x * 0.6 + 50).astype(np.uint8),
    'negative': lambda x: 255 - x,
    'gamma': lambda x: (255 * (x / 255) ** 0.7).round().astype(np.uint8),
}


def pictures(small, names=None):
    return Pictures(small, names or [f'{i} of {id(small)}' for i in range(len(small))])


@pytest.mark.parametrize('change', CHANGES)
def test_a_twin_is_found_in_each_orientation(change):
    images = textures(64)
    planted = np.stack(
        [
            CHANGES[change](np.ascontiguousarray(orientation.turned(images[i], i % 8)))
            for i in range(16)
        ]
    )
    found = find_pairs(pictures(planted), pictures(images))
    assert list(zip(found.first, found.second, strict=True)) != []
    back = {
        int(a): (int(b), int(o))
        for a, b, o in zip(found.first, found.second, found.orientation, strict=True)
    }
    assert len(found) == 16
    for row in range(16):
        partner, number = back[row]
        assert partner == row
        again = orientation.turned(orientation.turned(images[row], row % 8), number)
        np.testing.assert_array_equal(again, images[row])
    least = NEAR if change in ('half the size', 'JPEG') else TWIN
    assert found.likeness.min() >= least


def test_unrelated_pictures_are_not_paired():
    assert len(find_pairs(pictures(textures(400)))) == 0


def test_flat_and_faint_pictures_are_not_paired():
    flat = np.zeros((3, 64, 64), np.uint8)
    flat[1] = 200
    flat[2, 5, 5] = 1
    assert len(find_pairs(pictures(flat, ['a', 'b', 'c']))) == 0


def test_equal_pixels_are_exact_and_named_once():
    images = textures(6)
    images[4] = images[1]
    found = find_pairs(pictures(images, ['a', 'b', 'c', 'd', 'b', 'f']))
    assert [(found.first[0], found.second[0])] == [(1, 4)]
    assert len(found) == 1 and KINDS[found.kind[0]] == 'exact'


def test_a_moved_picture_is_near_and_not_a_twin():
    image = textures(1)[0].astype(float)
    moved = ndimage.shift(image, (0.55, 0), order=3, mode='nearest')
    both = np.stack([image, np.clip(moved, 0, 255)]).astype(np.uint8)
    [kind] = find_pairs(pictures(both)).kind
    assert KINDS[kind] == 'near'


@pytest.mark.parametrize('number', range(orientation.COUNT))
def test_a_turned_hash_is_the_hash_of_the_turned_picture(number):
    images = textures(5)
    np.testing.assert_allclose(
        hashes.turn_hashes(hashes.hash_pictures(images), number),
        hashes.hash_pictures(orientation.turned(images, number)),
        atol=1e-5,
    )


def test_hashes_and_likeness_do_not_depend_on_blocks_or_order():
    images = textures(300)
    np.testing.assert_allclose(
        hashes.hash_pictures(images)[290:],
        hashes.hash_pictures(images[290:]),
        atol=1e-6,
    )
    one, two = images[:140], textures(140, seed=1) // 4 + images[:140] // 2
    there, back = details_alike(one, two), details_alike(two, one)
    np.testing.assert_allclose(there, back, atol=1e-4)
    np.testing.assert_allclose(
        there[130:], details_alike(one[130:], two[130:]), atol=1e-4
    )


def as_set(found):
    rows = zip(found.first, found.second, found.orientation, strict=True)
    return {tuple(map(int, row)) for row in rows}


def random_hashes(count, seed=0):
    rng = np.random.default_rng(seed)
    # A few directions, so that many are alike.
    drawn = hashes.hash_pictures(textures(8, seed))[rng.integers(0, 8, count)]
    drawn = drawn + rng.normal(size=drawn.shape) * 0.02
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize('block', [7, 64, 1000])
def test_blocks_change_nothing(block):
    given = random_hashes(150)
    whole = search.find_candidates(given, most=1000, block=4096)
    assert len(whole) > 500
    assert as_set(search.find_candidates(given, most=1000, block=block)) == as_set(
        whole
    )
    # An independent witness: all products at once.
    expected = set()
    for number in range(8):
        alike = hashes.turn_hashes(given, number) @ given.T
        expected |= {(i, j) for i, j in np.argwhere(alike > search.FLOOR) if i < j}
    assert {pair[:2] for pair in as_set(whole)} == expected


def test_each_picture_keeps_its_most_alike():
    given = random_hashes(400)
    found = search.find_candidates(given, most=5, block=32)
    assert len(found) <= 5 * 400  # every pair is among the five best of one of the two
    products = given @ given.T
    np.fill_diagonal(products, 0)
    for i, j in enumerate(products.argmax(axis=1)):
        assert any({a, b} == {i, int(j)} for a, b, _ in as_set(found))


def test_memory_is_bounded_by_pairs_kept_not_by_pairs_seen(monkeypatch):
    held = []
    prune = search._Kept._prune

    def spy(self):
        held.append(sum(len(values) for _, values in self._waiting))
        prune(self)

    monkeypatch.setattr(search, '_LEAST_ROOM', 1000)
    monkeypatch.setattr(search._Kept, '_prune', spy)
    given = random_hashes(1000)  # some 60,000 pairs are alike
    found = search.find_candidates(given, most=3, block=64)
    assert len(held) > 2 and max(held) <= 2 * 3 * 1000 + 64 * 64
    assert len(found) <= 3 * 1000
