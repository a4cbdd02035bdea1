"""How scans of all kinds come to lie on their canvas: windows, masks, localizers."""

import dataclasses

import nibabel
import numpy as np
import pytest
from conftest import write_ct
from PIL import Image

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.spec import WINDOWS, DatasetSpec, Intensity, PathPattern

SPEC = DatasetSpec(
    name='trial', title='A trial', source='Made here.', terms='None.', layout='Any.'
)


def prepare(monkeypatch, tmp_path, **fields):
    spec = dataclasses.replace(SPEC, **fields)
    monkeypatch.setitem(catalog.DATASETS, 'trial', spec)
    return prepare_dataset(
        'trial', [tmp_path / 'raw'], tmp_path / 'data', canvas=16, workers=1
    )


def images(tmp_path):
    return open_prepared(tmp_path / 'data', 'trial').all_images()


# Air, lung, soft tissue and bone, in Hounsfield units.
HU = np.full((16, 16), -1000.0)
HU[:, 4:8], HU[:, 8:12], HU[:, 12:] = -600, 40, 480


def shown(window):
    centre, width = WINDOWS[window]
    return np.clip((HU - centre + width / 2) * 255 / width, 0, 255)


@pytest.mark.parametrize('window', WINDOWS)
def test_ct_values_read_as_their_window_says(monkeypatch, tmp_path, window):
    # The file's own window is another one in every series: it is not used.
    write_ct(tmp_path / 'raw' / 'a.dcm', HU, WindowCenter=1, WindowWidth=2)
    prepare(monkeypatch, tmp_path, intensity=Intensity(hounsfield=(window,)))
    (image,) = images(tmp_path)
    np.testing.assert_allclose(image[:, :, 0], shown(window), atol=1)


def test_three_windows_are_three_channels(monkeypatch, tmp_path):
    write_ct(tmp_path / 'raw' / 'a.dcm', HU)
    names = ('lung', 'soft', 'bone')
    prepared = prepare(monkeypatch, tmp_path, intensity=Intensity(hounsfield=names))
    assert prepared.card['channels'] == 3
    (image,) = images(tmp_path)
    for channel, name in enumerate(names):
        np.testing.assert_allclose(image[:, :, channel], shown(name), atol=1)


def test_windows_are_checked():
    with pytest.raises(UserError, match="Did you mean 'lung'"):
        Intensity(hounsfield=('lungs',))
    with pytest.raises(UserError, match='one is needed, or three'):
        Intensity(hounsfield=('lung', 'soft'))
    with pytest.raises(UserError, match='one channel'):
        three = Intensity(hounsfield=('lung', 'soft', 'bone'))
        dataclasses.replace(SPEC, channels=1, intensity=three)


def test_scouts_are_left_out_where_the_set_says_so(monkeypatch, tmp_path):
    write_ct(tmp_path / 'raw' / 'a.dcm', HU)
    kind = ['ORIGINAL', 'PRIMARY', 'LOCALIZER']
    write_ct(tmp_path / 'raw' / 'b.dcm', HU[::-1] + 7, ImageType=kind)
    card = prepare(monkeypatch, tmp_path, skip_localizers=True).card
    assert card['counts']['images'] == 1
    assert card['counts']['rejected'] == {'localizer (scout, topogram)': 1}


def test_screenshots_of_a_scanner_are_left_out(monkeypatch, tmp_path):
    write_ct(tmp_path / 'raw' / 'a.dcm', HU)
    write_ct(tmp_path / 'raw' / 'b.dcm', HU[::-1] + 7, BurnedInAnnotation='YES')
    secondary = '1.2.840.10008.5.1.4.1.1.7'
    write_ct(tmp_path / 'raw' / 'c.dcm', HU + 7, SOPClassUID=secondary)
    counts = prepare(monkeypatch, tmp_path).card['counts']
    assert counts['images'] == 1
    (reason,) = counts['rejected']
    assert reason.startswith('burnt-in words') and counts['rejected'][reason] == 2


def write_volume(path, volume):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), path)


def test_volume_shares_its_range_and_its_group(monkeypatch, tmp_path):
    volume = np.zeros((16, 16, 4))
    volume[:, 4:, 1], volume[:, 4:, 2] = 100, 1000  # slices 0 and 3 are empty
    write_volume(tmp_path / 'raw' / 'a.nii.gz', volume)
    write_volume(tmp_path / 'raw' / 'b.nii.gz', volume + 1)
    card = prepare(monkeypatch, tmp_path).card
    assert card['counts']['images'] == 4 and card['counts']['groups'] == 2
    assert card['counts']['rejected'] == {'blank image': 4}
    brightest = sorted(int(image.max()) for image in images(tmp_path))
    assert brightest[0] == brightest[1] < 64 and brightest[2] == brightest[3] == 255


def test_volume_of_ct_is_recognised_by_its_air(monkeypatch, tmp_path):
    write_volume(tmp_path / 'raw' / 'a.nii', np.stack([HU.T[:, ::-1]] * 1, axis=2))
    prepare(monkeypatch, tmp_path, modality='CT')
    (image,) = images(tmp_path)
    row = shown('soft')[0]
    assert any(
        np.allclose(image[0, :, 0], values, atol=1) for values in (row, row[::-1])
    )


def test_masks_are_no_images(monkeypatch, tmp_path):
    raw = tmp_path / 'raw' / 'one'
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('a.png', 'a_mask.tif', 'b_mask.png'):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(raw / name)
    masks = PathPattern(r'^(.+)_mask\.\w+$')
    card = prepare(monkeypatch, tmp_path, masks=masks).card
    # b_mask.png is of no image that is here: an image itself.
    assert card['counts']['images'] == 2
    assert card['counts']['rejected'] == {'mask of another image': 1}
