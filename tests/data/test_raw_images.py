import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import dicom_of, write_ct, write_pngs

from jax_mrissl.core.errors import UserError
from jax_mrissl.data import catalog
from jax_mrissl.data.card import reading_of
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.raw_images import Reading, find_raw_images, stacked
from jax_mrissl.data.spec import (
    EachImage,
    FirstOf,
    FolderLevel,
    HeaderSubject,
    PathPattern,
)

PLAIN = Reading(
    canvas=32,
    bits=8,
    channels=1,
    intensity=Reading.of_card(
        {'name': 'brain_mri', 'canvas': 32, 'bits': 8, 'channels': 1}
    ).intensity,
    modality='',
)


def write_scans(folder, seed=0):
    """Two series of 12-bit MR slices of two people, a picture, a text file."""
    rng = np.random.default_rng(seed)
    for who in (1, 2):
        for k in range(3):
            stored = rng.integers(0, 900 * who, (40, 30)).astype('<u2')
            path = folder / f'p{who}' / f'{k}.dcm'
            path.parent.mkdir(parents=True, exist_ok=True)
            dicom_of(
                stored,
                PatientID=f'Doe^{who}',
                SeriesInstanceUID=f'1.2.{who}',
                SOPInstanceUID=f'1.2.{who}.{k}',
            ).save_as(path, enforce_file_format=True)
    picture = rng.integers(0, 255, (28, 36)).astype(np.uint8)
    write_pngs(folder, {'p3/view.png': picture})
    (folder / 'p3' / 'notes.txt').write_text('no image')


@pytest.mark.parametrize('bits', [8, 16])
def test_raw_files_become_what_prepare_makes_of_them(tmp_path, bits):
    """Bit for bit, whatever the format, from the card of the prepared set alone."""
    write_scans(tmp_path / 'raw')
    own = OwnFolder('mine', (), PathPattern(r'(p\d)/'))
    made = prepare_dataset(
        'folder', [tmp_path / 'raw'], tmp_path, canvas=32, bits=bits, own=own, workers=1
    )
    reading = Reading.of_card(made.card)
    assert Reading.of_card(json.loads(json.dumps(made.card))) == reading
    found = find_raw_images([tmp_path / 'raw'], reading, workers=1)
    images, boxes, windows = stacked(list(found.placed(found.items)))
    prepared = open_prepared(tmp_path, 'mine')
    place = {sha: row for row, sha in enumerate(prepared.pixel_sha256)}
    rows = [place[item.facts.pixel_sha256] for item in found.items]
    assert len(set(rows)) == 7 and images.dtype == f'uint{bits}'
    np.testing.assert_array_equal(images, prepared.images(rows))
    np.testing.assert_array_equal(boxes, prepared.boxes[rows])
    if bits == 16:
        np.testing.assert_array_equal(windows, prepared.windows[rows])
    assert [path for path, _ in found.unreadable] == [
        str(tmp_path / 'raw/p3/notes.txt')
    ]
    # The set's own rule for paths tells the three people.
    told = dict(zip(map(found.path, found.items), found.subjects, strict=True))
    assert len(set(told.values())) == 3
    assert told[str(tmp_path / 'raw/p1/0.dcm')] == told[str(tmp_path / 'raw/p1/2.dcm')]


@pytest.mark.parametrize(
    ('rule', 'count'),
    [('auto', 3), ('header', 3), ('folder', 3), ('file', 7), (r'p[12]/(\d)', 4)],
)
def test_subjects_are_told_as_asked_and_never_named(tmp_path, rule, count):
    write_scans(tmp_path)
    found = find_raw_images([tmp_path], PLAIN, subject=rule, workers=1)
    assert len(set(found.subjects)) == count
    assert not any('Doe' in text or 'p1' in text for text in found.subjects)


@pytest.mark.parametrize(
    ('rule', 'folders'),
    [
        (PathPattern(r'^([^/]+)/'), 1),
        (FolderLevel(1), None),
        (PathPattern(r'(p\d)'), 0),
    ],
)
def test_a_rule_for_paths_holds_from_wherever_they_are_named(
    tmp_path, monkeypatch, rule, folders
):
    write_scans(tmp_path / 'all/scans')
    for path in (tmp_path / 'all/scans').rglob('*.dcm'):  # no header tells
        dicom = dicom_of(np.arange(600).reshape(30, 20).astype('<u2'), PatientID='')
        dicom.SOPInstanceUID = f'1.{path.parent.name[1]}.{path.stem}'
        dicom.save_as(path, enforce_file_format=True)
    reading = dataclasses.replace(PLAIN, subject=(rule,), folders=folders)
    scans = tmp_path / 'all/scans'
    monkeypatch.chdir(scans / 'p1')
    given = [
        [scans],
        [Path('..')],
        sorted(scans.iterdir()),
        [*sorted((scans / 'p1').iterdir()), scans / 'p2', Path('../p3')],
    ]
    if folders is not None:
        given.append([tmp_path / 'all'])
    for paths in given:
        found = find_raw_images(paths, reading, workers=1)
        who = [Path(found.path(item)).resolve().parent for item in found.items]
        pairs = set(zip(who, found.subjects, strict=True))
        assert len(pairs) == len(set(who)) == len(set(found.subjects)) == 3


def test_folders_that_may_tell_a_subject_never_join_two(tmp_path):
    """Deeper than the dataset's own files: `T1` of two people is not one person."""
    for index, who in enumerate(('a', 'b')):
        picture = np.arange(400).reshape(20, 20).astype(np.uint8) + index
        write_pngs(tmp_path, {f'{who}/T1/x.png': picture})
    reading = dataclasses.replace(PLAIN, subject=(PathPattern('^([^/]+)/'),), folders=1)
    assert len(set(find_raw_images([tmp_path], reading, workers=1).subjects)) == 2


@pytest.mark.parametrize(
    'rule',
    [
        FolderLevel(2),
        FirstOf((PathPattern(r'sub-(\d+)'), HeaderSubject())),
        EachImage(),
    ],
)
def test_rules_of_all_kinds_come_back_from_a_card(rule):
    spec = dataclasses.replace(catalog.find('ct'), subject=rule)
    card = {'name': 'ct', 'canvas': 32, 'bits': 8, 'channels': 1}
    card['reading'] = json.loads(json.dumps(reading_of(spec)))
    expected = {EachImage: (), FirstOf: getattr(rule, 'rules', ())}
    found = Reading.of_card(card).subject
    assert found == expected.get(type(rule), (rule,))
    # As earlier versions wrote it.
    card['reading']['subject'] = r'sub-(\d+)'
    assert Reading.of_card(card).subject == (PathPattern(r'sub-(\d+)'),)


def test_windows_of_a_ct_are_those_of_the_dataset(tmp_path):
    units = np.random.default_rng(0).integers(-1000, 1500, (32, 32))
    write_ct(tmp_path / 'a.dcm', units)
    lung = dataclasses.replace(PLAIN.intensity, hounsfield=('lung',))
    for intensity, (low, high) in (
        (PLAIN.intensity, (-160, 240)),
        (lung, (-1350, 150)),
    ):
        reading = dataclasses.replace(PLAIN, intensity=intensity)
        found = find_raw_images([tmp_path], reading, workers=1)
        [placed] = found.placed(found.items)
        expected = np.clip((units - low) / (high - low), 0, 1) * 255
        np.testing.assert_allclose(placed.pixels[:, :, 0], expected, atol=1)


def test_files_are_listed_once_and_mistakes_answered(tmp_path):
    write_scans(tmp_path / 'raw')
    (tmp_path / 'empty').mkdir()
    one = tmp_path / 'raw/p1/0.dcm'
    found = find_raw_images([tmp_path / 'raw', one, tmp_path / 'raw/p1'], PLAIN)
    assert len(found.files) == 8 and len(found.items) == 7
    [alone] = find_raw_images([one], PLAIN).items
    assert alone.facts.frame == 0
    for given, rule, words in (
        ([tmp_path / 'none'], 'auto', 'There is nothing at'),
        ([tmp_path / 'empty'], 'auto', 'no files in the folder'),
        ([], 'auto', 'Give files'),
        ([one], 'sub-(', 'none of auto, header'),
    ):
        with pytest.raises(UserError, match=words):
            find_raw_images(given, PLAIN, subject=rule)
    with pytest.raises(UserError, match='Prepare it again'):
        Reading.of_card({'name': 'unheard_of', 'canvas': 8, 'bits': 8, 'channels': 1})
