"""What pretraining would see of tested subjects is found, counted and kept."""

import dataclasses
import json

import numpy as np
import pytest

from jax_mrissl.audit import findings
from jax_mrissl.audit.findings import Part, describe, find_all, find_between
from jax_mrissl.audit.overlap import find_overlap
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.report.png import encode_png


def part(data_dir, name):
    return Part(name, 'all', open_prepared(data_dir, name))


def test_duplicates_twins_and_neighbours_are_told_apart(twins_dir, tmp_path):
    overlap = find_overlap(
        [part(twins_dir, 'others')], part(twins_dir, 'tested'), tmp_path, spare=tmp_path
    )
    assert dict(overlap.by_kind) == {'exact': 1, 'twin': 1, 'near': 1}
    assert (overlap.images, overlap.subjects, overlap.seen) == (3, 3, 3)
    assert (overlap.labelled_images, overlap.labelled_subjects) == (24, 12)
    assert overlap.text.startswith('3 labelled images of 3 subjects (1 pixel by pixel')


def test_a_subject_of_the_same_set_is_known_by_its_hash(twins_dir, tmp_path):
    whole = part(twins_dir, 'tested')
    groups = whole.prepared.groups
    # One image of each of three subjects; the images themselves are not tested.
    chosen = np.unique(groups)[:3]
    first = np.array([np.flatnonzero(groups == g)[0] for g in chosen])
    rest = np.setdiff1d(np.arange(len(groups)), first)
    some = dataclasses.replace(whole, prepared=whole.prepared.select(first))
    tested = dataclasses.replace(whole, prepared=whole.prepared.select(rest))
    overlap = find_overlap([some, some], tested, tmp_path, spare=tmp_path)
    assert dict(overlap.by_kind) == {'group': 3}
    assert (overlap.subjects, overlap.seen) == (3, 3)
    overlap = find_overlap([whole], whole, tmp_path, spare=tmp_path)
    assert dict(overlap.by_kind) == {'exact': 24}


def test_a_person_whom_published_ids_name_in_both_sets_is_found(tmp_path):
    rng = np.random.default_rng(0)

    def prepared(name, files):
        for file in files:
            path = tmp_path / 'raw' / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(rng.integers(0, 256, (32, 32), np.uint8)))
        own = OwnFolder(name=name)
        raw = [str(tmp_path / 'raw' / name)]
        prepare_dataset('folder', raw, tmp_path, canvas=32, own=own)
        return part(tmp_path, name)

    tested = prepared('first', ['OAS1_0001_MR1.png', 'OAS1_0002_MR1.png', '3.png'])
    others = [
        'OAS1_0002_MR2_a.png',
        'OAS1_0002_MR2_b.png',
        'OAS1_0009_MR1.png',
        '4.png',
    ]
    overlap = find_overlap(
        [prepared('second', others)], tested, tmp_path, spare=tmp_path
    )
    assert dict(overlap.by_kind) == {'person': 1}
    assert (overlap.images, overlap.subjects, overlap.seen) == (1, 1, 2)
    assert '1 by the person, whom published ids name in both' in overlap.text
    # Without the private manifests nothing names them.
    for manifest in tmp_path.glob('second/*/private/manifest.parquet'):
        manifest.unlink()
    again = find_overlap([part(tmp_path, 'second')], tested, tmp_path, spare=tmp_path)
    assert again.images == 0


def test_unrelated_sets_do_not_overlap(twins_dir, tmp_path):
    others = part(twins_dir, 'others')
    tested = set(part(twins_dir, 'tested').prepared.pixel_sha256)
    pairs = find_between(
        [others], [part(twins_dir, 'tested')], tmp_path, spare=tmp_path
    )
    rows = np.setdiff1d(np.arange(len(others.prepared)), pairs.first)
    assert len(rows) == 30 and not tested & set(others.prepared.pixel_sha256[rows])
    clean = dataclasses.replace(others, prepared=others.prepared.select(rows))
    overlap = find_overlap([clean], part(twins_dir, 'tested'), tmp_path, spare=tmp_path)
    assert (overlap.images, overlap.seen, overlap.by_kind) == (0, 0, ())


def test_what_is_known_is_not_looked_for_again(twins_dir, tmp_path, monkeypatch):
    parts = [part(twins_dir, 'others'), part(twins_dir, 'tested')]
    first = find_all(parts, tmp_path, spare=tmp_path)
    [kept] = (tmp_path / '.audit').iterdir()
    monkeypatch.setattr(findings, '_find', None)  # would fail
    again = find_all(parts, tmp_path, spare=tmp_path)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(
            getattr(first, field.name), getattr(again, field.name)
        )
    monkeypatch.undo()
    # Other rows are another question; so is a file that is no answer.
    fewer = dataclasses.replace(
        parts[0], prepared=parts[0].prepared.select(np.arange(5))
    )
    find_all([fewer, parts[1]], tmp_path, spare=tmp_path)
    assert len(list((tmp_path / '.audit').iterdir())) == 2
    kept.write_text('{"key": 1')
    assert len(find_all(parts, tmp_path, spare=tmp_path)) == len(first)
    assert json.loads(kept.read_text())['key']['version'] == findings._VERSION


def test_where_data_cannot_be_written_the_spare_folder_serves(
    twins_dir, tmp_path, monkeypatch
):
    parts = [part(twins_dir, 'others'), part(twins_dir, 'tested')]
    write = findings.write_json

    def refuse(path, value):
        if 'spare' not in str(path):
            raise PermissionError(13, 'Permission denied', str(path))
        write(path, value)

    monkeypatch.setattr(findings, 'write_json', refuse)
    spare = tmp_path / 'spare'
    found = find_all(parts, tmp_path / 'data', spare=spare)
    monkeypatch.setattr(findings, '_find', None)
    assert len(find_all(parts, tmp_path / 'data', spare=spare)) == len(found)


def test_findings_name_nobody(twins_dir, tmp_path):
    parts = [part(twins_dir, 'others'), part(twins_dir, 'tested')]
    told = describe(parts, find_all(parts, tmp_path, spare=tmp_path))
    text = json.dumps(told)
    assert 'sub-' not in text and str(twins_dir) not in text
    kinds = sorted(pair['kind'] for pair in told['pairs'])
    assert kinds == ['exact', 'near', 'twin']
    [twin] = [pair for pair in told['pairs'] if pair['kind'] == 'twin']
    assert twin['orientation'] == 'turned 270°'  # back from a quarter turn
    assert {twin['first']['part'], twin['second']['part']} == {0, 1}
    assert [c['parts'] for c in told['counts']] == [[0, 1]] * 3
    assert all(c['pairs'] == 1 and not c['same_group'] for c in told['counts'])


@pytest.mark.parametrize('name', ['tested', 'others'])
def test_a_clean_set_has_no_pairs(twins_dir, tmp_path, name):
    assert len(find_all([part(twins_dir, name)], tmp_path, spare=tmp_path)) == 0


def test_pictures_that_may_be_of_two_people_are_no_overlap(
    twins_dir, tmp_path, monkeypatch
):
    others, tested = part(twins_dir, 'others'), part(twins_dir, 'tested')
    near = findings.KINDS.index('near')
    pairs = find_between([others], [tested], tmp_path, spare=tmp_path)
    below = dataclasses.replace(
        pairs, likeness=np.where(pairs.kind == near, np.float32(0.92), pairs.likeness)
    )
    monkeypatch.setattr('jax_mrissl.audit.overlap.find_between', lambda *_, **__: below)
    overlap = find_overlap([others], tested, tmp_path, spare=tmp_path)
    assert dict(overlap.by_kind) == {'exact': 1, 'twin': 1} and overlap.seen == 2
