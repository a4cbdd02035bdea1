import collections
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from conftest import dicom_of
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
)

from jax_mrissl.core.errors import UnreadableFile
from jax_mrissl.readers.read import read

STORED = np.array([[0, 1, 2], [100, 1000, 4000]], np.uint16)
SAMPLES = Path(__file__).parents[2].parent / 'shared' / 'data'


def dataset(stored=STORED, syntax=ExplicitVRLittleEndian, **tags):
    ds = dicom_of(stored, **tags)
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def slices(tmp_path, ds, **options):
    path = tmp_path / 'a.dcm'
    ds.save_as(path, enforce_file_format=True, **options)
    return list(read(path))


def pixels(tmp_path, **tags):
    (found,) = slices(tmp_path, dataset(**tags))
    return found.pixels


def test_values_come_as_stored(tmp_path):
    found = pixels(tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, STORED)


def test_slope_and_intercept(tmp_path):
    found = pixels(tmp_path, RescaleSlope='2.5', RescaleIntercept='-1024')
    np.testing.assert_array_equal(found, STORED * 2.5 - 1024)


def test_sign(tmp_path):
    signed = np.array([[-5, 7]], np.int16)
    np.testing.assert_array_equal(pixels(tmp_path, stored=signed), signed)


def test_bits_that_are_not_stored_are_dropped(tmp_path):
    overlay = np.array([[5 | 0x8000, 0xFFF]], np.uint16)
    found = pixels(tmp_path, stored=overlay, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(found, [[5, 4095]])


def test_twelve_bits_with_sign(tmp_path):
    stored = np.array([[0x0FFF, 0x07FF]], np.uint16).view(np.int16)
    found = pixels(tmp_path, stored=stored, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(found, [[-1, 2047]])


def test_monochrome1_is_inverted_within_the_stored_range(tmp_path):
    found = pixels(
        tmp_path,
        PhotometricInterpretation='MONOCHROME1',
        BitsStored=12,
        HighBit=11,
    )
    np.testing.assert_array_equal(found, 4095.0 - STORED)


def test_monochrome1_takes_its_window_along(tmp_path):
    ds = dataset(
        PhotometricInterpretation='MONOCHROME1',
        BitsStored=12,
        HighBit=11,
        WindowCenter=1000,
        WindowWidth=200,
    )
    (found,) = slices(tmp_path, ds)
    assert found.window == (4095 - 1100, 4095 - 900)


def test_window_is_the_first_and_zero_width_is_none(tmp_path):
    ds = dataset(WindowCenter=[40, 400], WindowWidth=[80, 1500])
    assert slices(tmp_path, ds)[0].window == (0, 80)
    assert slices(tmp_path, dataset(WindowCenter=0, WindowWidth=0))[0].window is None


def test_padding_is_nan(tmp_path):
    found = pixels(tmp_path, PixelPaddingValue=1)
    np.testing.assert_array_equal(np.isnan(found), STORED == 1)


def test_padding_whose_sign_contradicts_the_pixels(tmp_path):
    stored = np.array([[-2000, 3]], np.int16)
    ds = dataset(stored)
    ds.add_new('PixelPaddingValue', 'US', 63536)
    (found,) = slices(tmp_path, ds)
    np.testing.assert_array_equal(np.isnan(found.pixels), [[True, False]])


def test_modality_lut(tmp_path):
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4, 0, 16], 'US'
    lut.LUTData = np.array([10, 20, 30, 40], np.uint16).tobytes()
    stored = np.array([[0, 1, 2, 9]], np.uint16)
    found = pixels(tmp_path, stored=stored, ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(found, [[10, 20, 30, 40]])


def test_two_photometric_versions_of_one_image_are_equal(tmp_path):
    values = {'BitsStored': 12, 'HighBit': 11}
    first = pixels(tmp_path, PhotometricInterpretation='MONOCHROME2', **values)
    negative = (4095 - STORED).astype(np.uint16)
    second = pixels(
        tmp_path, stored=negative, PhotometricInterpretation='MONOCHROME1', **values
    )
    np.testing.assert_array_equal(first, second)


def test_odd_spellings_of_numbers(tmp_path):
    ds = dataset(RescaleSlope='001.000000E+00', RescaleIntercept='-01.024000E+03')
    ds.WindowCenter, ds.WindowWidth = ['000030', '-0550'], ['000350', '1600']
    (found,) = slices(tmp_path, ds)
    np.testing.assert_array_equal(found.pixels, STORED - 1024.0)
    assert found.window == (-145, 205)


@pytest.mark.parametrize(
    ('tags', 'expected'),
    [
        ({'ImageType': ['ORIGINAL', 'PRIMARY', 'LOCALIZER', 'CT_SOM5 TOP']}, True),
        ({'ImageType': ['ORIGINAL', 'PRIMARY', 'AXIAL']}, False),
        # The kind is told: what people wrote beside it does not count.
        (
            {
                'ImageType': ['ORIGINAL', 'PRIMARY', 'AXIAL'],
                'SeriesDescription': 'after localizer',
            },
            False,
        ),
        ({'SeriesDescription': 'Topogram  0.6'}, True),
        ({}, False),
    ],
)
def test_localizers(tmp_path, tags, expected):
    assert slices(tmp_path, dataset(**tags))[0].localizer is expected


CAPTURE = '1.2.840.10008.5.1.4.1.1.7'


@pytest.mark.parametrize(
    ('tags', 'expected'),
    [
        ({'BurnedInAnnotation': 'YES'}, True),
        ({'BurnedInAnnotation': 'NO'}, False),
        ({'SOPClassUID': CAPTURE, 'Modality': 'CT'}, True),
        ({'SOPClassUID': f'{CAPTURE}.2', 'Modality': 'MR'}, True),
        # Digitised films and videos have no other class.
        ({'SOPClassUID': CAPTURE, 'Modality': 'CR'}, False),
        ({'SOPClassUID': CAPTURE, 'Modality': 'US'}, False),
        ({'SOPClassUID': f'{CAPTURE}7.1.1', 'Modality': 'MR'}, False),
        ({}, False),
    ],
)
def test_images_that_may_show_a_name(tmp_path, tags, expected):
    assert slices(tmp_path, dataset(**tags))[0].burnt_in is expected


def test_a_lookup_table_for_display_gives_the_range_in_which_it_rises(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [100, 1000, 16]
    heights = np.interp(np.arange(100), [20, 80], [0, 60000]).astype(np.uint16)
    table.LUTData = heights.tobytes()
    low, high = slices(tmp_path, dataset(VOILUTSequence=[table]))[0].window
    assert abs(low - 1020) <= 2 and abs(high - 1080) <= 2


def extended_jpeg(tmp_path):
    """Twelve bits, lossy: made by imagecodecs, wrapped by pydicom."""
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint16) * 36
    frame = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12)
    ds = dataset(smooth, syntax=JPEGExtended12Bit, BitsStored=12, HighBit=11)
    ds.PixelData = encapsulate([frame])
    return smooth, ds


def test_extended_jpeg_of_twelve_bits(tmp_path):
    smooth, ds = extended_jpeg(tmp_path)
    (found,) = slices(tmp_path, ds)
    assert abs(found.pixels - smooth).max() <= 12


def test_colour_is_a_picture(tmp_path):
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    ds = dataset()
    ds.PhotometricInterpretation, ds.SamplesPerPixel = 'RGB', 3
    ds.PlanarConfiguration = 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = colour.tobytes()
    np.testing.assert_array_equal(slices(tmp_path, ds)[0].pixels, colour)


def test_frames_have_their_own_positions(tmp_path):
    frames = np.stack([STORED, STORED + 1])
    ds = dataset(frames)
    groups = []
    for height in (10.0, 12.5):
        plane, group = pydicom.Dataset(), pydicom.Dataset()
        plane.ImagePositionPatient = [1, 2, height]
        group.PlanePositionSequence = [plane]
        groups.append(group)
    orientation, measures, shared = (pydicom.Dataset() for _ in range(3))
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [0.5, 0.75]
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.SharedFunctionalGroupsSequence = [shared]
    found = slices(tmp_path, ds)
    assert [s.position for s in found] == [10.0, 12.5]
    assert found[0].spacing_mm == (0.5, 0.75)
    np.testing.assert_array_equal(found[1].pixels, STORED + 1)
    (second,) = read(tmp_path / 'a.dcm', 1)
    np.testing.assert_array_equal(second.pixels, STORED + 1)


def test_position_is_along_the_normal(tmp_path):
    ds = dataset(
        ImagePositionPatient=[7, 20, 30],
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],  # sagittal
    )
    assert slices(tmp_path, ds)[0].position == -7


def test_position_falls_back_on_the_number(tmp_path):
    assert slices(tmp_path, dataset(InstanceNumber=12))[0].position == 12


@pytest.mark.parametrize(
    'syntax', [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_encodings(tmp_path, syntax):
    (found,) = slices(tmp_path, dataset(syntax=syntax))
    np.testing.assert_array_equal(found.pixels, STORED)


@pytest.mark.parametrize('syntax', [RLELossless, JPEG2000Lossless])
def test_compressions_lose_nothing(tmp_path, syntax):
    big = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    ds = dataset(big)
    try:
        ds.compress(syntax)
    except RuntimeError as error:
        pytest.skip(f'no encoder here: {error}')
    np.testing.assert_array_equal(slices(tmp_path, ds)[0].pixels, big)


def test_without_preamble(tmp_path):
    ds = dataset()
    whole = tmp_path / 'whole'
    ds.save_as(whole, enforce_file_format=True)
    bare = pydicom.dcmread(whole)
    del bare.file_meta
    bare.preamble = None
    bare.save_as(
        tmp_path / 'bare',
        implicit_vr=True,
        little_endian=True,
        enforce_file_format=False,
    )
    (found,) = read(tmp_path / 'bare')
    np.testing.assert_array_equal(found.pixels, STORED)


def test_preamble_may_claim_to_be_tiff(tmp_path):
    path = tmp_path / 'a.dcm'
    dataset().save_as(path, enforce_file_format=True)
    path.write_bytes(b'II*\0' + path.read_bytes()[4:])
    (found,) = read(path)
    np.testing.assert_array_equal(found.pixels, STORED)


def reason_of(tmp_path, ds):
    with pytest.raises(UnreadableFile) as error:
        slices(tmp_path, ds)
    return error.value.reason


def test_objects_without_pixels(tmp_path):
    ds = dataset()
    del ds.PixelData
    assert reason_of(tmp_path, ds) == 'DICOM object without pixels'


def test_segmentations(tmp_path):
    assert reason_of(tmp_path, dataset(Modality='SEG')) == 'DICOM segmentation'


def test_mosaic(tmp_path):
    ds = dataset(ImageType=['ORIGINAL', 'PRIMARY', 'MOSAIC'])
    assert reason_of(tmp_path, ds) == 'Siemens mosaic'


def test_too_large(tmp_path):
    assert reason_of(tmp_path, dataset(Rows=65000, Columns=65000)) == 'image too large'


def test_truncated(tmp_path):
    ds = dataset()
    ds.PixelData = ds.PixelData[:-4]
    assert reason_of(tmp_path, ds) == 'truncated'


def test_deflate_bomb(tmp_path):
    import zlib

    from jax_mrissl.readers import dicom

    whole = tmp_path / 'a.dcm'
    dataset(syntax=DeflatedExplicitVRLittleEndian).save_as(
        whole, enforce_file_format=True
    )
    data = whole.read_bytes()
    head = data[: 144 + int.from_bytes(data[140:144], 'little')]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b''.join(packer.compress(bytes(1 << 22)) for _ in range(8)) + packer.flush()
    whole.write_bytes(head + body)
    limit, dicom._MAX_INFLATED_BYTES = dicom._MAX_INFLATED_BYTES, 1 << 24
    try:
        with pytest.raises(UnreadableFile) as error:
            list(read(whole))
    finally:
        dicom._MAX_INFLATED_BYTES = limit
    assert error.value.reason == 'image too large'


def test_garbled_files_never_raise_anything_else(tmp_path):
    path = tmp_path / 'a.dcm'
    dataset(np.stack([STORED] * 3)).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        garbled = bytearray(data[: rng.integers(133, len(data) + 1)])
        for place in rng.integers(132, len(garbled), 3):
            garbled[place] = rng.integers(256)
        path.write_bytes(garbled)
        try:
            list(read(path))
        except UnreadableFile as error:
            assert error.reason


def sample(*parts):
    path = SAMPLES.joinpath(*parts)
    if not path.exists():
        pytest.skip(f'no sample data at {path}')
    return path


@pytest.mark.parametrize('name', ['CT1', 'CT2'])
def test_seven_transfer_syntaxes_of_one_slice_agree(name):
    folder = sample('ct', 'wg04_transfer_syntaxes')
    (plain,) = read(folder / f'{name}_UNC.dcm')
    for syntax in ('RLE', 'J2KR', 'JLSL', 'JPLL'):
        (other,) = read(folder / f'{name}_{syntax}.dcm')
        np.testing.assert_array_equal(other.pixels, plain.pixels)
    # In the soft-tissue window; padding is not found again after a lossy codec.
    low, high = -160, 240
    shown = np.clip(np.nan_to_num(plain.pixels, nan=low), low, high)
    for syntax, greatest, mean in (('JLSN', 4, 2), ('J2KI', 400, 12)):
        (other,) = read(folder / f'{name}_{syntax}.dcm')
        values = np.clip(np.nan_to_num(other.pixels, nan=low), low, high)
        difference = abs(values - shown)
        assert difference.max() <= greatest and difference.mean() < mean


def test_padding_63536_of_a_real_signed_image_is_background():
    (found,) = read(sample('ct', 'wg04_transfer_syntaxes') / 'CT1_UNC.dcm')
    assert np.isnan(found.pixels[0, 0]) and np.nanmin(found.pixels) >= -1024
    assert 0.2 < np.isnan(found.pixels).mean() < 0.25  # the corners outside the circle


def test_same_values_as_monochrome1_are_the_negative():
    folder = sample('chest_xray', 'dicom')
    (second,) = read(folder / 'Fake_MONOHR1.dcm')
    first = next(p for p in folder.iterdir() if p.name.startswith('1.2.276.0.7230010'))
    (other,) = read(first)
    np.testing.assert_array_equal(second.pixels, 255 - other.pixels)


def test_scout_is_recognised():
    (found,) = read(sample('ct', 'topogram', '1-1.dcm'))
    assert found.localizer


def test_files_that_pydicom_brings(record_property):
    """None of them crashes the reader; each is read or has a listed reason."""
    base = Path(pydicom.__file__).parent / 'data'
    counts = collections.Counter()
    for path in sorted(base.rglob('*')):
        if path.is_file() and path.suffix not in ('.py', '.pyc', '.json'):
            try:
                images = len(list(read(path)))
            except UnreadableFile as error:
                counts[error.reason] += 1
            else:
                assert images
                counts['read'] += 1
    for reason, count in counts.most_common():
        print(f'{count:4d}  {reason}')
        record_property(reason, count)
    known = {
        'read',
        'DICOM object without pixels',
        'DICOM segmentation',
        'not an image',
        'an archive: unpack it first',
        'damaged',
        'truncated',
    }
    assert counts.keys() <= known
    assert counts['read'] >= 0.49 * sum(counts.values())
    # What is refused although pixels are in it.
    assert counts['damaged'] + counts['truncated'] <= 6
