import dataclasses
import itertools

import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.pipeline import (
    Shard,
    batch_rows,
    choose_placement,
    evaluation_feeds,
    fetch,
    open_input,
    row_feeds,
    with_partners,
)
from jax_mrissl.data.prepared import open_prepared

ALONE = Shard()


def batches(prepared, placement, *, first_step=0, count=9, shard=ALONE, partners=False):
    source, feeds = open_input(
        prepared,
        placement,
        batch_size=8,
        steps_per_epoch=4,
        seed=3,
        first_step=first_step,
        shard=shard,
        partners=partners,
    )
    return [fetch(source, feed) for feed in itertools.islice(feeds, count)]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        for field in dataclasses.fields(a):
            x, y = (np.asarray(getattr(batch, field.name)) for batch in (a, b))
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope='module')
def prepared(cohort):
    return open_prepared(cohort, 'smoke', 'pretrain')


def test_placements_give_the_same_batches_bit_for_bit(prepared):
    device = batches(prepared, 'device')
    assert_same(batches(prepared, 'host'), device)
    assert_same(batches(prepared, 'stream'), device)


@pytest.mark.parametrize('placement', ['device', 'host', 'stream'])
def test_any_step_can_be_the_first(prepared, placement):
    whole = batches(prepared, placement)
    assert_same(batches(prepared, placement, first_step=5, count=4), whole[5:])


def test_partners_are_other_images_of_the_same_subject(cohort):
    labelled = open_prepared(cohort, 'smoke', 'labelled')  # 16 subjects, 3 slices each
    device = batches(labelled, 'device', partners=True)
    assert_same(batches(labelled, 'stream', partners=True), device)
    assert_same(batches(labelled, 'host', partners=True), device)
    later = batches(labelled, 'device', partners=True, first_step=5, count=4)
    assert_same(later, device[5:])
    plain = batches(labelled, 'device')
    numbers = {labelled.image(i).tobytes(): i for i in range(len(labelled))}
    pairs = []
    for batch, alone in zip(device, plain, strict=True):
        np.testing.assert_array_equal(batch.image, alone.image)
        for image, partner in zip(batch.image, batch.partner_image, strict=True):
            one, two = (numbers[np.asarray(x).tobytes()] for x in (image, partner))
            assert one != two and labelled.groups[one] == labelled.groups[two]
            pairs.append((one, two))
    assert len(set(pairs)) > len({one for one, _ in pairs})  # drawn anew each time


def test_the_only_image_of_a_subject_is_its_own_partner():
    order = batch_rows(6, 3, seed=0, steps_per_epoch=2)
    groups = np.array([0, 1, 1, 2, 2, 2])
    found = np.concatenate(
        [with_partners(order, groups, seed=0)[t] for t in range(200)], axis=1
    )
    for row, others in ((0, {0}), (1, {2}), (2, {1}), (3, {4, 5}), (4, {3, 5})):
        partners = found[1, found[0] == row]
        assert set(partners) == others
    share = np.mean(found[1, found[0] == 3] == 4)
    assert 0.3 < share < 0.7  # of about 100


@pytest.mark.parametrize('placement', ['device', 'stream'])
def test_processes_share_every_batch(prepared, placement):
    whole = batches(prepared, placement)
    shares = [batches(prepared, placement, shard=Shard(i, 2)) for i in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        joined = np.concatenate([np.asarray(part.image) for part in parts])
        np.testing.assert_array_equal(joined, batch.image)


def test_an_epoch_reads_every_row_once_and_the_next_another_way():
    rows = batch_rows(12, 4, seed=0, steps_per_epoch=3)
    epochs = [np.concatenate([rows[3 * e + i] for i in range(3)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert not np.array_equal(epochs[0], epochs[1])
    other = batch_rows(12, 4, seed=1, steps_per_epoch=3)
    assert not np.array_equal(other[0], rows[0])


def test_feeds_of_some_rows_hold_these_alone():
    rows = np.array([3, 5, 8, 13, 21, 34])
    feeds = row_feeds(
        rows, batch_size=2, steps_per_epoch=2, seed=0, first_step=0, shard=Shard()
    )
    seen = np.concatenate([feed.row for feed in itertools.islice(feeds, 20)])
    assert set(seen) == set(rows)


def test_evaluation_sees_every_row_once_under_its_mask():
    feeds = list(evaluation_feeds(np.arange(5, 16), 4))
    rows = np.concatenate([feed.row[feed.mask > 0] for feed in feeds])
    np.testing.assert_array_equal(rows, np.arange(5, 16))
    assert {len(feed.row) for feed in feeds} == {4}


def test_images_come_with_the_box_that_is_not_padding(prepared):
    image, box = prepared.image(0), prepared.boxes[0]
    top, left, height, width = box
    # 28 x 24 raw pixels on a canvas of 48.
    assert (height, width) == (48, 41)
    inside = image[top : top + height, left : left + width]
    assert inside.sum() == image.sum() and inside.max() > 0
    assert image.shape == (48, 48, 1) and image.dtype == np.uint8


def test_selected_rows_stay_together(prepared):
    few = prepared.select(np.array([7, 2]))
    np.testing.assert_array_equal(few.image(0), prepared.image(7))
    assert list(few.file_ids) == [prepared.file_ids[7], prepared.file_ids[2]]


def test_small_sets_are_put_on_the_device(prepared):
    assert choose_placement('auto', prepared) == 'device'
    assert choose_placement('auto', prepared, share=0.0) == 'stream'
    assert choose_placement('host', prepared) == 'host'
    with pytest.raises(UserError, match="'device', 'host', 'stream'"):
        choose_placement('disc', prepared)


def test_mistakes_are_answered_in_words(prepared, cohort, tmp_path):
    with pytest.raises(UserError, match='set batch_size to at most 5'):
        batch_rows(5, 8, 0, 1)
    with pytest.raises(UserError, match='cannot be shared by 3 processes'):
        batches(prepared, 'device', shard=Shard(0, 3))
    with pytest.raises(UserError, match="Did you mean 'pretrain'"):
        open_prepared(cohort, 'smoke', 'pretrian')
    with pytest.raises(UserError, match=r'is not prepared in .*\n.*get it there'):
        open_prepared(tmp_path, 'brain_mri', advice='get it there')
    (tmp_path / 'brain_mri' / '1.0.0').mkdir(parents=True)
    with pytest.raises(UserError, match='only half prepared'):
        open_prepared(tmp_path, 'brain_mri')
