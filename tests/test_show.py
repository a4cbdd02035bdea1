"""The command that draws what augmentation does."""

import functools

import numpy as np
import pytest
from conftest import run_module
from PIL import Image

from jax_mrissl.augment.recipes import evaluation_view, swav_views
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.show import draw_rows

show = functools.partial(run_module, 'show')


def test_a_recipe_is_drawn(cohort, tmp_path):
    out = tmp_path / 'new' / 'views.png'
    ran = show(
        '--dataset=smoke',
        f'--data_dir={cohort}',
        f'--out={out}',
        '--recipe=barlow',
        '--images=2',
        '--image_size=16',
    )
    assert ran.returncode == 0, ran.stderr
    assert f'2 images in 3 columns: {out}' in ran.stdout
    assert 'saturation, hue, random grayscale' in ran.stdout
    assert np.ptp(np.asarray(Image.open(out))) == 255


def test_rows_are_images_and_columns_are_views(cohort):
    prepared = open_prepared(cohort, 'smoke')
    # Crop and flip say enough, and compile quickly.
    large, small = (swav_views('mri')[i][:2] for i in (0, -1))
    views = [evaluation_view(), large, small]
    rows = draw_rows(prepared, views, count=3, image_size=28, seed=0)
    assert [[v.shape for v in row] for row in rows] == [
        [(28, 28, 1), (28, 28, 1), (12, 12, 1)]
    ] * 3
    assert all(v.min() >= 0 and v.max() <= 1 for row in rows for v in row)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ((), '--dataset is missing'),
        (('--dataset=smoke', '--data_dir=x'), '--out is missing'),
        (
            ('--dataset=smoke', '--data_dir=/nowhere', '--out=x.png'),
            'is not prepared in /nowhere',
        ),
    ],
)
def test_mistakes_are_answered_in_words(flags, message):
    ran = show(*flags)
    assert ran.returncode == 1
    assert message in ran.stderr and 'Traceback' not in ran.stderr
