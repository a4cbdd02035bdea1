"""Maps against closed cases and finite differences; a planted square is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jax_mrissl.models import ENCODERS
from jax_mrissl.models.resnet import LAST_MAP
from jax_mrissl.saliency.maps import Explainer, Network
from jax_mrissl.saliency.regions import blurred, rank_correlation, share

SIZE, COUNT, SIDE = 32, 6, 8


class Pooled(nn.Module):
    """A patchwise linear map and a square: its maps can be written down."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(3, (4, 4), strides=(4, 4), padding='VALID', name='conv')(images)
        self.sow('intermediates', LAST_MAP, x**2)
        return (x**2).mean((1, 2))


def head(params, embeddings):
    return embeddings @ params['weights'] + params['bias'][None]


def explainer(encoder, **changes):
    given = dict(
        encoder=encoder,
        head=head,
        normalize=lambda view: (view - 0.3) / 0.2,
        tells_number=False,
        place=lambda rows: rows,
        batch_size=16,
    )
    return Explainer(**(given | changes))


@pytest.fixture(scope='module')
def square():
    """A quadratic network, images, targets."""
    rng = np.random.default_rng(0)
    encoder = Pooled()
    variables = encoder.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)), train=False)
    weights = {'weights': rng.normal(size=(3, 3)), 'bias': rng.normal(size=3)}
    params = {
        'encoder': variables['params'],
        'head': jax.tree.map(jnp.float32, weights),
    }
    network = Network(params, {'encoder': {}, 'head': {}})
    images = rng.uniform(size=(5, 8, 8, 1)).astype(np.float32)
    return encoder, network, images, np.array([0, 1, 2, 0, 1])


def by_hand(encoder, network, images, targets, normalize=lambda v: (v - 0.3) / 0.2):
    """The log odds, image by image, in float64."""
    kernel = np.float64(network.params['encoder']['conv']['kernel'])  # [4, 4, 1, 3]
    offset = np.float64(network.params['encoder']['conv']['bias'])
    found = []
    for image, target in zip(images, targets, strict=True):
        x = normalize(np.float64(image)).reshape(2, 4, 2, 4)
        patches = np.einsum('iajb,abf->ijf', x, kernel[:, :, 0]) + offset
        h = (patches**2).mean((0, 1))
        logits = h @ np.float64(network.params['head']['weights'])
        logits = logits + np.float64(network.params['head']['bias'])
        odds = np.exp(logits - logits.max())
        odds /= odds.sum()
        found.append(np.log(odds[target]) - np.log(1 - odds[target]))
    return np.array(found)


def test_the_score_is_the_log_odds_of_the_class(square):
    encoder, network, images, targets = square
    found = explainer(encoder).scores(network, images, targets)
    np.testing.assert_allclose(
        found, by_hand(encoder, network, images, targets), rtol=1e-5
    )
    number = explainer(encoder, tells_number=True)
    again = number.scores(network, images, targets)
    assert not np.allclose(again, found)


def test_smooth_grad_without_noise_is_the_gradient(square):
    encoder, network, images, targets = square
    found = explainer(encoder).smooth_grad(
        network, images, targets, draws=3, deviation=0.0
    )
    for row, (i, j) in ((0, (2, 3)), (3, (7, 0)), (4, (5, 6))):
        step = np.zeros_like(images[row])
        step[i, j] = 1e-5
        high, low = (
            by_hand(encoder, network, [np.float64(images[row]) + s], [targets[row]])
            for s in (step, -step)
        )
        # Through the normalisation: without it the slope would be a fifth.
        np.testing.assert_allclose(
            found[row, i, j], abs(high[0] - low[0]) / 2e-5, rtol=1e-4
        )
    noisy = explainer(encoder).smooth_grad(network, images, targets, deviation=0.2)
    assert not np.allclose(noisy, found)
    other_batches = explainer(encoder, batch_size=7)
    np.testing.assert_allclose(
        other_batches.smooth_grad(network, images, targets, deviation=0.2),
        noisy,
        rtol=1e-4,
        atol=1e-5,
    )


def test_integrated_gradients_add_up_and_equal_the_integral(square):
    encoder, network, images, targets = square
    baselines = np.zeros_like(images)
    found = explainer(encoder).integrated_gradients(
        network, images, targets, baselines=baselines
    )
    assert (found.gap <= 0.01).all() and (found.points == 32).all()
    change = by_hand(encoder, network, images, targets)
    change -= by_hand(encoder, network, baselines, targets)
    np.testing.assert_allclose(found.change, change, rtol=1e-4)
    np.testing.assert_allclose(found.maps.sum((1, 2)), change, rtol=0.01)
    # A fine Riemann sum of finite differences, of one pixel.
    row, place = 2, (3, 4)
    slopes = []
    for alpha in (np.arange(400) + 0.5) / 400:
        step = np.zeros_like(images[row], np.float64)
        step[place] = 1e-5
        point = alpha * np.float64(images[row])
        high = by_hand(encoder, network, [point + step], [targets[row]])
        low = by_hand(encoder, network, [point - step], [targets[row]])
        slopes.append((high[0] - low[0]) / 2e-5)
    np.testing.assert_allclose(
        found.maps[row][place], images[row][place][0] * np.mean(slopes), rtol=0.01
    )


def test_points_are_added_only_where_maps_do_not_add_up(square):
    """The same as with all points at once: midpoints of thirds hold the whole's."""
    encoder, network, images, targets = square
    fine = explainer(encoder).integrated_gradients(
        network,
        images,
        targets,
        baselines=np.zeros_like(images),
        tolerance=0.0,
        most_points=288,
    )
    assert (fine.points == 288).all() and fine.gap.max() < 1e-3
    middle = np.median(
        explainer(encoder)
        .integrated_gradients(
            network,
            images,
            targets,
            baselines=np.zeros_like(images),
            tolerance=1.0,
        )
        .gap
    )
    mixed = explainer(encoder).integrated_gradients(
        network,
        images,
        targets,
        baselines=np.zeros_like(images),
        tolerance=float(middle),
    )
    assert set(mixed.points) >= {32, 96}
    np.testing.assert_allclose(mixed.maps, fine.maps, atol=0.01 * abs(fine.maps).max())


def test_grad_cam_by_hand(square):
    encoder, network, images, targets = square
    made = explainer(encoder, tells_number=True)
    assert made.grid(network, images) == (2, 2)
    found = made.grad_cam(network, images, targets)
    kernel = np.float64(network.params['encoder']['conv']['kernel'])[:, :, 0]
    offset = np.float64(network.params['encoder']['conv']['bias'])
    weights = np.float64(network.params['head']['weights'])[:, 0]
    for image, cam in zip(images, found, strict=True):
        x = ((image - 0.3) / 0.2).reshape(2, 4, 2, 4)
        last = (np.einsum('iajb,abf->ijf', x, kernel) + offset) ** 2
        coarse = np.maximum(last @ weights, 0)
        # Bilinear enlargement keeps the corners.
        corners = cam[[0, 0, -1, -1], [0, -1, 0, -1]].reshape(2, 2)
        np.testing.assert_allclose(corners, coarse, rtol=1e-4, atol=1e-5)


def drawn(module, seed):
    draw = jax.jit(lambda key, x: module.init(key, x, train=False))
    return draw(jax.random.key(seed), jnp.zeros((1, SIZE, SIZE, 1)))


@pytest.fixture(scope='module')
def planted():
    """Noise with a bright square in half of the images, and a network that tells."""
    rng = np.random.default_rng(0)
    module = ENCODERS['resnet_tiny']().module()
    variables = drawn(module, 0)

    def draw(count):
        images = rng.uniform(0, 0.4, (count, SIZE, SIZE, 1)).astype(np.float32)
        labels = np.arange(count) % 2
        masks = np.zeros((count, SIZE, SIZE), bool)
        for image, mask, label in zip(images, masks, labels, strict=True):
            i, j = rng.integers(0, SIZE - SIDE + 1, 2)
            mask[i : i + SIDE, j : j + SIDE] = label
            image[mask] += 0.5 * label
        return images, labels, masks

    state = {'batch_stats': variables['batch_stats']}
    params = {
        'encoder': variables['params'],
        'head': {'weights': jnp.zeros((16, 2)), 'bias': jnp.zeros(2)},
    }
    optimizer = optax.adam(1e-2)

    def loss(params, images, labels):
        views = (images - 0.3) / 0.2
        h = module.apply({'params': params['encoder'], **state}, views, train=False)
        logits = head(params['head'], h)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, opt_state, images, labels):
        value, slopes = jax.value_and_grad(loss)(params, images, labels)
        updates, opt_state = optimizer.update(slopes, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state = optimizer.init(params)
    for _ in range(80):
        images, labels, _ = draw(32)
        params, opt_state, value = step(params, opt_state, images, labels)
    assert value < 0.1
    state = {'encoder': {'batch_stats': variables['batch_stats']}, 'head': {}}
    images, labels, masks = draw(2 * COUNT)
    with_square = labels == 1
    network = Network(params, state)
    return explainer(module), network, images[with_square], masks[with_square]


def test_a_planted_square_is_found(planted):
    made, network, images, masks = planted
    targets = np.ones(COUNT, int)
    assert (made.scores(network, images, targets) > 0).all()
    cams = made.grad_cam(network, images, targets)
    smooth = made.smooth_grad(network, images, targets)
    found = made.integrated_gradients(
        network, images, targets, baselines=np.full_like(images, 0.2)
    )
    assert found.gap.max() <= 0.01
    near = np.array([_widened(mask) for mask in masks])
    for cam, mask in zip(cams, near, strict=True):
        assert mask[np.unravel_index(cam.argmax(), cam.shape)]
    for maps, times in ((cams, 2), (found.maps, 3), (smooth, 3)):
        shares = [share(m, k) for m, k in zip(maps, near, strict=True)]
        assert np.mean(shares) > times * near.mean()


def _widened(mask, by=4):
    """Adds what a cell of the last map sees around the square."""
    i, j = np.nonzero(mask)
    wide = mask.copy()
    wide[
        max(0, i.min() - by) : i.max() + 1 + by, max(0, j.min() - by) : j.max() + 1 + by
    ] = True
    return wide


def test_random_numbers_change_the_maps(planted):
    made, network, images, _ = planted
    targets = np.ones(COUNT, int)
    key = jax.random.key(3)
    other = Network(
        {
            'encoder': drawn(made.encoder, 9)['params'],
            'head': jax.tree.map(
                lambda x: jax.random.permutation(key, x.ravel()).reshape(x.shape),
                network.params['head'],
            ),
        },
        network.model_state,
    )
    baselines = blurred(images)
    everywhere = np.ones((SIZE, SIZE), bool)

    def likeness(maps, others):
        pairs = zip(maps, others, strict=True)
        return np.nanmean([rank_correlation(a, b, everywhere) for a, b in pairs])

    for maps in (
        lambda n: made.smooth_grad(n, images, targets),
        lambda n: made.grad_cam(n, images, targets),
        lambda n: (
            made.integrated_gradients(n, images, targets, baselines=baselines).maps
        ),
    ):
        assert likeness(maps(network), maps(network)) == pytest.approx(1)
        assert not likeness(maps(network), maps(other)) > 0.8
