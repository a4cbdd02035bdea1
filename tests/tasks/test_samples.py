"""The picture of views shows what training sees."""

import jax
import numpy as np
import pytest
from conftest import smoke_config

from jax_mrissl.augment.policy import make_views
from jax_mrissl.data.pipeline import Rows, Shard, fetch, open_input, resident
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.tasks import pretrain
from jax_mrissl.tasks.from_config import read_experiment

SEED = 3


@pytest.fixture
def pictured(cohort, tmp_path, monkeypatch):
    """Gives a function of `positives` to what the picture is of.

    It gives the set, the captions, and which rows of the set are seen: int [pictured
    images, columns]. The views are resized alone, which tells images apart.
    """
    prepared = open_prepared(cohort, 'smoke', 'labelled')  # 3 images of each subject
    count = np.arange(len(prepared))
    kept = []
    monkeypatch.setattr(pretrain, 'montage', lambda *given: kept.append(given) or b'')

    def pictured(positives):
        config = smoke_config(cohort, pretrain__positives=positives)
        config.pretrain.views = [[{'name': 'resize'}], [{'name': 'resize'}]]
        [plan] = read_experiment(config).chain
        path = tmp_path / 'views.png'
        pretrain.write_samples(plan, prepared, jax.random.key(0), path, seed=SEED)
        [(rows, captions)] = kept
        whole = fetch(resident(prepared), Rows(count, np.ones(len(prepared))))
        views, _ = make_views(
            jax.random.key(0), whole, tuple(plan.build_policies()), count
        )
        images = prepared.shown_images()

        def nearest(picture, of):
            return int(
                np.argmin([np.abs(picture - np.asarray(one)).sum() for one in of])
            )

        seen = [
            [nearest(image.astype(int), images), *(nearest(v, views) for v in shown)]
            for image, *shown in rows
        ]
        return prepared, captions, np.array(seen)

    return pictured


def test_pictured_views_are_of_one_image(pictured):
    _, captions, seen = pictured('image')
    assert captions == ['image', *['view 1', 'view 2'] * 3]
    assert (seen == seen[:, :1]).all()


def test_pictured_views_are_of_two_images_of_a_subject_as_in_training(pictured):
    prepared, captions, seen = pictured('subject')
    assert captions == ['image', *['view 1', 'view 2, same subject'] * 3]
    rows, first, second = seen[:, :1], seen[:, 1::2], seen[:, 2::2]
    assert (first == rows).all()
    assert (second != rows).all()
    assert (prepared.groups[second] == prepared.groups[rows]).all()
    assert (second != second[:, :1]).any()  # drawn anew, as at each step


def test_partners_in_training_are_of_the_same_draw(cohort):
    prepared = open_prepared(cohort, 'smoke', 'labelled')
    draw = pretrain.partner_draw(prepared.group_numbers, SEED)
    _, feeds = open_input(
        prepared,
        'device',
        batch_size=16,
        steps_per_epoch=3,
        seed=SEED,
        first_step=0,
        shard=Shard(),
        partners=True,
    )
    for step in range(4):
        feed = next(feeds)
        np.testing.assert_array_equal(feed.partner, draw(step, feed.row))
