"""Recipes: they build, keep the range, and are what their sources say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mrissl.augment import build_policy
from jax_mrissl.augment.recipes import (
    POLICIES,
    barlow_views,
    evaluation_view,
    finetune_views,
    leave_out_colour,
    report_views,
    simclr_views,
    swav_views,
)
from jax_mrissl.core.errors import UserError

METHODS = {'barlow': barlow_views, 'simclr': simclr_views, 'swav': swav_views}
COLOUR = {'color_jitter', 'random_grayscale', 'solarize'}


def build(view, size=24):
    crop = dict(view[0])
    size = round(size * crop.pop('size_fraction', 1.0))
    return build_policy([{'size': size, **crop}, *view[1:]], where='view')


def op(view, name):
    [found] = [o for o in view if o['name'] == name]
    return found


def canvases(channels, rows=6):
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (rows, 40, 40, channels), np.uint8)
    levels[:, :8] = 0
    return levels, np.tile(np.int32([4, 0, 32, 40]), (rows, 1))


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('method', METHODS)
def test_every_recipe_builds(method, policy):
    views = METHODS[method](policy, foreground=0.2)
    assert len(views) == (8 if method == 'swav' else 2)
    for view in views:
        assert view[-1]['name'] == 'normalize'
        assert build(view).crop.size == (10 if 'size_fraction' in view[0] else 24)
    assert sum('size_fraction' in view[0] for view in views) == len(views) - 2


# One of the methods: the ops' own ranges are tested in test_ops.
@pytest.mark.parametrize('policy', POLICIES)
def test_views_of_every_policy_keep_their_range(policy):
    channels = 3 if policy == 'natural' else 1
    images, boxes = canvases(channels)
    [*view, _] = simclr_views(policy, foreground=0.2)[0]
    draw = jax.jit(build(view))
    drawn = draw(jax.random.key(0), images, boxes, jnp.arange(6))
    assert drawn.shape == (6, 24, 24, channels)
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert np.ptp(drawn, axis=(1, 2)).min() > 0.05


def test_the_natural_barlow_pair_is_the_official_one():
    one, two = barlow_views()
    assert [o['name'] for o in one] == [
        'random_resized_crop',
        'horizontal_flip',
        'color_jitter',
        'random_grayscale',
        'gaussian_blur',
        'solarize',
        'normalize',
    ]
    assert one[:4] == two[:4]
    assert one[0] == dict(name='random_resized_crop', scale=(0.08, 1.0))
    found = [
        (op(v, 'gaussian_blur')['probability'], op(v, 'solarize')['probability'])
        for v in (one, two)
    ]
    assert found == [(1.0, 0.0), (0.1, 0.2)]


@pytest.mark.parametrize(
    ('strength', 'jitter'), [(1.0, (0.8, 0.8, 0.8, 0.2)), (0.5, (0.4, 0.4, 0.4, 0.1))]
)
def test_the_natural_simclr_pair_is_the_official_one(strength, jitter):
    one, two = simclr_views(strength=strength)
    assert one == two and one is not two
    parts = ('brightness', 'contrast', 'saturation', 'hue')
    assert tuple(op(one, 'color_jitter')[part] for part in parts) == jitter
    assert op(one, 'gaussian_blur')['probability'] == 0.5
    assert build(one).crop.interpolation == 'bicubic'


@pytest.mark.parametrize('small', [0, 6])
def test_the_natural_swav_crops_are_the_official_ones(small):
    views = swav_views(small=small)
    assert [v[0]['scale'] for v in views] == (
        [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * small
    )
    assert [v[0].get('size_fraction', 1) * 224 for v in views] == pytest.approx(
        [224] * 2 + [96] * small
    )
    assert all(v[0]['interpolation'] == 'bilinear' for v in views)


def test_the_report_replays_lightly():
    for method, official in METHODS.items():
        views, others = report_views(method), official()
        assert len(views) == len(others)
        for view, other in zip(views, others, strict=True):
            assert view[-1] == dict(name='normalize')
            assert view[0] == {**other[0], 'interpolation': 'bilinear'}
            assert view[1:-1] == other[1:-1]
    with pytest.raises(UserError, match="Did you mean 'simclr'"):
        report_views('simclar')


@pytest.mark.parametrize('policy', sorted(set(POLICIES) - {'natural'}))
@pytest.mark.parametrize('method', METHODS)
def test_medical_views_have_no_colour_in_them(method, policy):
    for view in METHODS[method](policy):
        assert not COLOUR & {o['name'] for o in view}
        assert leave_out_colour(view) == (view, [])
    if method == 'barlow':
        blurs = [op(v, 'gaussian_blur')['probability'] for v in barlow_views(policy)]
        assert blurs == [0.5, 0.1]


def test_only_a_masked_recipe_asks_for_foreground():
    for views in METHODS.values():
        for policy in POLICIES:
            assert all('foreground' not in v[0] for v in views(policy))
            masked = views(policy, foreground=0.3)
            assert all(v[0]['foreground'] == 0.3 for v in masked)
            assert [v[1:] for v in masked] == [v[1:] for v in views(policy)]


def test_an_unknown_policy_is_answered_in_words():
    for views in METHODS.values():
        with pytest.raises(UserError, match="Did you mean 'xray'"):
            views('xrays')


def test_all_recipes_give_an_encoder_the_same_input():
    views = [v for views in METHODS.values() for p in POLICIES for v in views(p)]
    for view in [*views, *finetune_views(), evaluation_view()]:
        assert view[-1] == dict(name='normalize')


def test_leaving_colour_out_changes_no_gray_image():
    """Not in distribution, and here not even by draw: the jitter is the last op."""
    view = simclr_views()[0][:3]
    kept, names = leave_out_colour(view)
    assert names == ['saturation', 'hue']
    images, boxes = canvases(1)
    one, two = (
        jax.jit(build(v))(jax.random.key(0), images, boxes, jnp.arange(6))
        for v in (view, kept)
    )
    np.testing.assert_array_equal(one, two)
    assert view[2]['hue'] == 0.2  # the given list stays as it was


def test_what_is_left_out_is_named_once_and_only_if_it_was_there():
    view, names = leave_out_colour(barlow_views()[0])
    assert names == ['saturation', 'hue', 'random grayscale']
    assert 'random_grayscale' not in [o['name'] for o in view]
    assert leave_out_colour(view) == (view, [])
    # A jitter that names nothing has saturation and hue by default.
    bare, names = leave_out_colour([dict(name='color_jitter')])
    assert names == ['saturation', 'hue']
    assert (bare[0]['saturation'], bare[0]['hue']) == (0.0, 0.0)
