import gzip

import nibabel
import numpy as np
import pytest

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.read import read

# [right, anterior, superior]: each voxel tells its place.
VOLUME = np.arange(1, 2 * 3 * 4 + 1, dtype=np.int16).reshape(2, 3, 4)
RAS = np.diag([2.0, 3.0, 5.0, 1.0])
RAS[:3, 3] = -10, -20, -30


def expected(index):
    """Rows from anterior to posterior, columns from the patient's right to left."""
    return [[VOLUME[i, j, index] for i in (1, 0)] for j in (2, 1, 0)]


def save(path, volume=VOLUME, affine=RAS, kind=nibabel.Nifti1Image):
    nibabel.save(kind(volume, affine), path)
    return path


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz', 'a.hdr'])
def test_slices_are_axial_and_radiological(tmp_path, name):
    kind = nibabel.Nifti1Pair if name == 'a.hdr' else nibabel.Nifti1Image
    found = list(read(save(tmp_path / name, kind=kind)))
    assert [s.frame for s in found] == [0, 1, 2, 3]
    assert [s.position for s in found] == [-30, -25, -20, -15]
    for index, image in enumerate(found):
        assert image.pixels.dtype == np.float32
        assert image.spacing_mm == (3, 2)
        np.testing.assert_array_equal(image.pixels, expected(index))
    (third,) = read(tmp_path / name, 2)
    np.testing.assert_array_equal(third.pixels, expected(2))


def test_nifti2(tmp_path):
    path = save(tmp_path / 'a.nii', kind=nibabel.Nifti2Image)
    np.testing.assert_array_equal(next(read(path)).pixels, expected(0))


def test_content_counts_not_the_suffix(tmp_path):
    path = save(tmp_path / 'a.nii.gz').rename(tmp_path / 'a.bin')
    assert len(list(read(path))) == 4


@pytest.mark.parametrize('axes', ['LPI', 'PSR', 'SAL', 'ARS'])
def test_any_storage_order_gives_the_same_pictures(tmp_path, axes):
    image = nibabel.Nifti1Image(VOLUME, RAS)
    there = nibabel.orientations.axcodes2ornt(axes)
    here = nibabel.orientations.axcodes2ornt('RAS')
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(here, there))
    assert ''.join(nibabel.aff2axcodes(turned.affine)) == axes
    nibabel.save(turned, tmp_path / 'a.nii')
    found = list(read(tmp_path / 'a.nii'))
    assert [s.position for s in found] == [-30, -25, -20, -15]
    for index, image in enumerate(found):
        np.testing.assert_array_equal(image.pixels, expected(index))


def test_pair_counts_once(tmp_path):
    save(tmp_path / 'a.hdr', kind=nibabel.Nifti1Pair)
    with pytest.raises(UnreadableFile) as error:
        list(read(tmp_path / 'a.img'))
    assert error.value.reason == 'belongs to the .hdr file beside it'
    (tmp_path / 'a.img').unlink()
    assert reason_of(tmp_path / 'a.hdr') == 'its .img file is missing'


def test_analyze(tmp_path):
    # It stores no orientation: taken for axial, the patient's right first.
    affine = np.diag([-2.0, 3, 5, 1])
    path = save(tmp_path / 'a.hdr', VOLUME, affine, nibabel.Spm2AnalyzeImage)
    (tmp_path / 'a.mat').unlink(missing_ok=True)
    found = list(read(path))
    assert len(found) == 4 and found[0].spacing_mm == (3, 2)
    np.testing.assert_array_equal(found[1].pixels, VOLUME[:, ::-1, 1].T)


def test_slope_is_applied(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.astype(np.float32) * 0.5, RAS)
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / 'a.nii')
    found = next(read(tmp_path / 'a.nii')).pixels
    np.testing.assert_allclose(found, np.array(expected(0)) * 0.5, rtol=1e-3)


def test_first_of_several_volumes(tmp_path):
    path = save(tmp_path / 'a.nii.gz', np.stack([VOLUME, VOLUME + 90], axis=3))
    assert len(list(read(path))) == 4
    np.testing.assert_array_equal(next(read(path)).pixels, expected(0))


def test_a_single_slice_has_two_axes(tmp_path):
    path = save(tmp_path / 'a.nii.gz', VOLUME[:, :, 0])
    [found] = read(path)
    np.testing.assert_array_equal(found.pixels, expected(0))


def test_a_changed_file_is_read_again(tmp_path):
    path = save(tmp_path / 'a.nii.gz')
    assert next(read(path)).pixels.max() == VOLUME[:, :, 0].max()
    save(path, np.stack([VOLUME[:, :, 0] + 50] * 9, axis=2))
    assert len(list(read(path))) == 9


def reason_of(path):
    with pytest.raises(UnreadableFile) as error:
        list(read(path))
    return error.value.reason


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_truncated(tmp_path, suffix):
    volume = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / f'a{suffix}', volume)
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason_of(path) == 'truncated'


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
@pytest.mark.parametrize(
    ('shape', 'reason'),
    [((30000, 30000, 3000), 'image too large'), ((500, 500, 500), 'truncated')],
)
def test_bombs_are_refused_before_memory_is_taken(tmp_path, suffix, shape, reason):
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.int16)
    header['magic'], header['vox_offset'] = b'n+1', 352
    data = header.binaryblock + bytes(1000)
    path = tmp_path / f'a{suffix}'
    path.write_bytes(gzip.compress(data) if suffix == '.nii.gz' else data)
    assert reason_of(path) == reason


def test_colour_is_unsupported(tmp_path):
    kind = np.dtype([('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    path = save(tmp_path / 'a.nii', np.zeros((3, 3, 3), kind))
    assert reason_of(path) == 'unsupported format: NIfTI of this kind'


def test_gzip_of_something_else_is_an_archive(tmp_path):
    path = tmp_path / 'a.nii.gz'
    path.write_bytes(gzip.compress(b'Notes. ' * 100))
    assert reason_of(path) == 'an archive: unpack it first'


def test_a_wrong_checksum_is_damage(tmp_path):
    path = save(tmp_path / 'a.nii.gz')
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    assert reason_of(path) == 'damaged'


def test_garbled_files_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    path = save(tmp_path / 'a.nii', rng.normal(size=(9, 9, 9)).astype(np.float32))
    data = path.read_bytes()
    read_count = 0
    for round_ in range(80):
        cut = len(data) if round_ % 3 else rng.integers(1, len(data) + 1)
        garbled = bytearray(data[:cut])
        for place in rng.integers(0, min(len(garbled), 900), 3):
            garbled[place] = rng.integers(256)
        path.write_bytes(garbled)
        try:
            list(read(path))
            read_count += 1
        except UnreadableFile as error:
            assert str(path) not in error.reason
    assert read_count >= 25
