import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH
from jax_mrissl.core.errors import UserError
from jax_mrissl.models import ENCODERS
from jax_mrissl.objectives import METHODS
from jax_mrissl.objectives import swav as losses
from jax_mrissl.objectives.networks import unit
from jax_mrissl.objectives.swav import SwAV

sinkhorn_codes = jax.jit(
    losses.sinkhorn_codes, static_argnames=('epsilon', 'iterations')
)
swav_loss = jax.jit(losses.swav_loss, static_argnames='temperature')


def sinkhorn_by_hand(scores, epsilon, iterations):
    """The authors' `sinkhorn` as scalar loops: prototypes, then images, K x B."""
    rows, prototypes = scores.shape
    q = [
        [math.exp(scores[b, k] / epsilon) for b in range(rows)]
        for k in range(prototypes)
    ]
    total = sum(map(sum, q))
    q = [[x / total for x in line] for line in q]
    for _ in range(iterations):
        for k in range(prototypes):
            mass = sum(q[k])
            q[k] = [x / mass / prototypes for x in q[k]]
        for b in range(rows):
            mass = sum(q[k][b] for k in range(prototypes))
            for k in range(prototypes):
                q[k][b] /= mass * rows
    return np.array(q).T * rows


def loss_by_hand(scores, codes, temperature):
    """Eq. 2 and 5 of the paper as scalar loops over images, views and prototypes."""
    rows, views, prototypes = scores.shape
    total = 0.0
    for i in range(codes.shape[1]):
        for v in range(views):
            if v == i:
                continue
            for b in range(rows):
                exponents = [math.exp(s / temperature) for s in scores[b, v]]
                for k in range(prototypes):
                    p = exponents[k] / sum(exponents)
                    total -= codes[b, i, k] * math.log(p) / rows / (views - 1)
    return total / codes.shape[1]


def some_scores(rows=6, prototypes=5, views=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (rows, prototypes) if views is None else (rows, views, prototypes)
    return rng.uniform(-1, 1, shape)


@pytest.mark.parametrize('iterations', [1, 3])
@pytest.mark.parametrize(('rows', 'prototypes'), [(1, 3), (6, 5), (4, 9), (7, 1)])
@pytest.mark.parametrize('epsilon', [0.05, 0.5])
def test_codes_equal_the_authors_algorithm(
    float64, rows, prototypes, epsilon, iterations
):
    scores = some_scores(rows, prototypes)
    found = sinkhorn_codes(scores, epsilon=epsilon, iterations=iterations)
    expected = sinkhorn_by_hand(scores, epsilon, iterations)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_two_images_and_two_prototypes_by_hand(float64):
    # exp(s / eps): image 1 has 2 and 1, image 2 has 1 and 1. Prototypes' masses 3 and
    # 2: 2/3 1/3 | 1/2 1/2; then images' masses 7/6 and 5/6: 4/7 2/5 | 3/7 3/5.
    scores = np.log([[2.0, 1.0], [1.0, 1.0]])
    found = sinkhorn_codes(scores, epsilon=1.0, iterations=1)
    np.testing.assert_allclose(found, [[4 / 7, 3 / 7], [2 / 5, 3 / 5]], rtol=1e-12)


def test_fixture_computed_independently(float64):
    one = np.array(
        [[0.9, 0.1, -0.2], [0.2, 0.8, 0.1], [0.7, 0.6, -0.5], [0.1, -0.3, 0.4]]
    )
    two = np.array([[0.8, 0.2, 0], [0.1, 0.9, 0], [0.5, 0.5, -0.2], [0, 0, 0.6]])
    codes = [sinkhorn_codes(s, epsilon=0.05, iterations=3) for s in (one, two)]
    expected = [
        [0.999985, 0.000001, 0.000014],
        [0.000001, 0.994422, 0.005577],
        [0.499097, 0.500902, 0.000001],
        [0, 0, 1],
    ]
    np.testing.assert_allclose(codes[0], expected, atol=1e-6)
    loss = swav_loss(np.stack([one, two], 1), np.stack(codes, 1), temperature=0.1)
    np.testing.assert_allclose(loss, 0.172349325302, rtol=1e-9)
    first = swav_loss(np.stack([one, two], 1), codes[0][:, None], temperature=0.1)
    np.testing.assert_allclose(first, 0.188034443022, rtol=1e-9)


@pytest.mark.parametrize(('rows', 'views', 'prototypes'), [(1, 2, 3), (4, 5, 6)])
def test_loss_equals_the_paper_by_hand(float64, rows, views, prototypes):
    scores = some_scores(rows, prototypes, views)
    codes = np.random.default_rng(1).dirichlet(np.ones(prototypes), (rows, 2))
    found = swav_loss(scores, codes, temperature=0.1)
    np.testing.assert_allclose(found, loss_by_hand(scores, codes, 0.1), rtol=1e-10)


@pytest.mark.parametrize(
    ('prototypes', 'expected'), [(512, 6.238325), (3000, 8.006368), (64, 4.158883)]
)
def test_even_predictions_cost_the_logarithm_of_the_prototypes(prototypes, expected):
    scores = jnp.zeros((4, 2, prototypes))
    codes = jnp.stack(
        [sinkhorn_codes(scores[:, i], epsilon=0.05, iterations=3) for i in (0, 1)], 1
    )
    np.testing.assert_allclose(codes, 1 / prototypes, rtol=1e-4)
    found = swav_loss(scores, codes, temperature=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_random_directions_start_near_the_logarithm():
    rng = np.random.default_rng(0)
    z = unit(jnp.float32(rng.normal(size=(256, 2, 128))))
    w = unit(jnp.float32(rng.normal(size=(512, 128))))
    scores = z @ w.T
    codes = jnp.stack(
        [sinkhorn_codes(scores[:, i], epsilon=0.05, iterations=3) for i in (0, 1)], 1
    )
    np.testing.assert_allclose(
        swav_loss(scores, codes, temperature=0.1), np.log(512) + 0.39, atol=0.1
    )
    np.testing.assert_allclose(codes.sum(0), 0.5, rtol=0.06)  # 256 / 512 each


@pytest.mark.parametrize('size', [1.0, 30.0, 3000.0])
def test_codes_cannot_overflow(size):
    """exp(s / 0.05) overflows float32 from s = 4.43 on."""
    scores = np.float32(some_scores(8, 6) * size)
    codes = sinkhorn_codes(scores, epsilon=0.05, iterations=3)
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)


def test_codes_of_bfloat16_scores_are_computed_in_float32():
    scores = jnp.bfloat16(some_scores(8, 6))
    codes = sinkhorn_codes(scores, epsilon=0.05, iterations=3)
    assert codes.dtype == jnp.float32
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-6)


def test_what_may_change_without_changing_the_codes(float64):
    scores = some_scores()
    rng = np.random.default_rng(1)

    def codes(scores):
        return np.asarray(sinkhorn_codes(scores, epsilon=0.05, iterations=3))

    base = codes(scores)
    np.testing.assert_allclose(codes(scores + 0.3), base, rtol=1e-9)
    shifted = scores + rng.normal(size=(1, 5))  # by prototype: a bias never arrives
    np.testing.assert_allclose(codes(shifted), base, rtol=1e-9)
    order, by = rng.permutation(6), rng.permutation(5)
    np.testing.assert_allclose(
        codes(scores[order][:, by]), base[order][:, by], rtol=1e-9
    )


def test_a_full_queue_takes_part_and_an_idle_one_does_not(float64):
    scores, queue = some_scores(4, 5), some_scores(8, 5, seed=1)
    options = dict(epsilon=0.05, iterations=3)
    together = sinkhorn_codes(np.concatenate([scores, queue]), **options)[:4]
    np.testing.assert_allclose(
        sinkhorn_codes(scores, queue=queue, **options), together, rtol=1e-9
    )
    np.testing.assert_allclose(
        sinkhorn_codes(scores, queue=queue, use_queue=jnp.array(False), **options),
        sinkhorn_codes(scores, **options),
        rtol=1e-9,
    )


def test_loss_gradient_equals_finite_differences(float64):
    scores = jnp.array(some_scores(3, 4, 3))
    codes = jnp.array(np.random.default_rng(1).dirichlet(np.ones(4), (3, 2)))
    chex.assert_numerical_grads(
        lambda s: swav_loss(s, codes, temperature=0.1), (scores,), order=1
    )


def test_no_gradient_goes_through_the_codes():
    def total(scores):
        codes = sinkhorn_codes(scores, epsilon=0.05, iterations=3)
        return jnp.sum(codes * jnp.arange(5.0)[None])

    gradient = jax.grad(total)(jnp.float32(some_scores()))
    np.testing.assert_array_equal(gradient, 0)


# The method as a whole.

TINY = dict(prototypes=6, hidden_width=8, width=4)


def method(**changes):
    encoder = ENCODERS['resnet_tiny']().module()
    views = changes.pop('views', 3)
    return SwAV(encoder, (None,) * views, **TINY | changes)


def initial(swav):
    return jax.jit(swav.init, static_argnums=1)(jax.random.key(0), (16, 16, 3))


def step(swav, params, state, seed):
    rng = np.random.default_rng(seed)
    images = [jnp.float32(rng.normal(size=(4, s, s, 3))) for s in (16, 16, 8)]

    def loss(params):
        z, after = swav.project(params, state, images, axis=WHOLE_BATCH)
        batch = Batch(None, None, None, None, None)
        loss, aux = swav.criterion(params, after, z, batch, axis=WHOLE_BATCH)
        return loss, (z, aux)

    (_, (z, aux)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return z, aux, gradient


def test_queue_fills_from_its_epoch_on_the_newest_first():
    swav = method(queue_length=8, batch_size=4, queue_from_epoch=1, steps_per_epoch=2)
    params, state = initial(swav)
    run = jax.jit(lambda params, state, seed: step(swav, params, state, 0)[:2])
    queued, seen = [], []
    for seed in range(5):
        z, aux = run(params, state, seed)
        state = aux.model_state
        seen.append(z)
        queued.append(int(state['head']['memory']['queued']))
    # Steps 0 and 1 are epoch 0; steps 2 and 3 fill it; from step 4 on it is used.
    assert queued == [0, 0, 4, 8, 8]
    queue = state['head']['memory']['queue']
    for view in (0, 1):
        np.testing.assert_allclose(queue[view, :4], seen[4][:, view], rtol=1e-5)
        np.testing.assert_allclose(queue[view, 4:], seen[3][:, view], rtol=1e-5)


def optimise(swav, steps, rule=None):
    """Gives the prototypes after each step of SGD with momentum and decay."""
    params, state = initial(swav)

    def sgd(schedule):
        return optax.chain(
            optax.add_decayed_weights(0.1),
            optax.trace(0.9),
            optax.scale_by_learning_rate(schedule),
        )

    transform = swav.optimize(rule or sgd, lambda step: 0.1 / (1 + step))
    opt_state = transform.init(params)

    @jax.jit
    def update(params, state, opt_state):
        _, aux, gradient = step(swav, params, state, 0)
        updates, opt_state = transform.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), aux.model_state, opt_state

    history = [params]
    for _ in range(steps):
        params, state, opt_state = update(params, state, opt_state)
        history.append(params)
    return history


def test_prototypes_rest_at_first_and_keep_their_length():
    swav = method(freeze_prototypes_epochs=1.0, steps_per_epoch=2)
    history = optimise(swav, 4)
    found = [np.asarray(p['head']['prototypes']) for p in history]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)
    assert np.abs(found[3] - found[2]).max() > 1e-4
    for prototypes in found:
        np.testing.assert_allclose(np.linalg.norm(prototypes, axis=1), 1, rtol=1e-6)
    encoders = [p['encoder']['conv1']['kernel'] for p in history]
    assert np.abs(encoders[1] - encoders[0]).max() > 1e-6


def test_thawed_prototypes_learn_at_the_rate_of_their_step():
    """Momenta start at the thaw; the schedule does not."""
    rates = []

    def rule(schedule):
        def update(updates, count, params=None):
            return jax.tree.map(lambda u: 0 * u + schedule(count), updates), count + 1

        return optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), update)

    swav = method(freeze_prototypes_epochs=1.0, steps_per_epoch=2)
    params, _ = initial(swav)
    transform = swav.optimize(rule, lambda step: 0.1 * (1 + step))
    state = transform.init(params)
    for _ in range(4):
        updates, state = transform.update(params, state, params)
        moved = unit(params['head']['prototypes'] + 0.0) + updates['head']['prototypes']
        rates.append(np.asarray(moved - params['head']['prototypes']))
        kernel = updates['encoder']['conv1']['kernel']
    np.testing.assert_allclose(rates[0], 0, atol=1e-6)
    np.testing.assert_allclose(rates[1], 0, atol=1e-6)
    w = params['head']['prototypes']
    np.testing.assert_allclose(rates[2], unit(w + 0.3) - w, atol=1e-6)
    np.testing.assert_allclose(rates[3], unit(w + 0.4) - w, atol=1e-6)
    np.testing.assert_allclose(kernel, 0.4, rtol=1e-6)


def test_dead_prototypes_are_counted():
    swav = method()
    params, state = initial(swav)
    run = jax.jit(lambda params, state: step(swav, params, state, 0)[1])
    # All images on one spot: a prototype is nearest, the others are soon dead.
    params['head']['projector']['linear1']['kernel'] *= 0
    for _ in range(400):
        aux = run(params, state)
        state = aux.model_state
    np.testing.assert_allclose(aux.metrics['dead_prototypes'], 5 / 6, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics['chance_loss'], np.log(6), rtol=1e-6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(queue_length=10, batch_size=4), r'no multiple of the batch.*8 or 12'),
        (dict(queue_length=-1), '0 for none'),
        (dict(epsilon=0.0), 'above 0'),
        (dict(freeze_prototypes_epochs=-1.0), '0 for none'),
        (dict(prototypes=0), 'at least 1'),
        (dict(views=1), 'at least 2 views'),
    ],
)
def test_wrong_sizes_are_answered_in_words(changes, message):
    with pytest.raises(ValueError, match=message):
        method(**changes)


def test_more_prototypes_than_images_bring_advice():
    [sentence] = method(prototypes=3000, batch_size=256).advice()
    assert '3000 prototypes' in sentence and 'at most 256' in sentence
    assert 'method.queue_length to 2816 (images)' in sentence
    assert method(prototypes=3000, batch_size=256, queue_length=2816).advice() == ()
    assert method(prototypes=4, batch_size=4).advice() == ()
    late = dict(prototypes=8, batch_size=4, queue_length=4, epochs=2)
    unused, too_many = method(queue_from_epoch=2.0, **late).advice()
    assert 'only after the 2 epochs' in unused
    assert '8 prototypes are shared out over 4 images' in too_many
    assert method(queue_from_epoch=0.0, steps_per_epoch=3, **late).advice() == ()
    [frozen] = method(freeze_prototypes_epochs=2.0, prototypes=4, epochs=2).advice()
    assert 'never learn' in frozen


def test_every_method_is_named_in_the_registry():
    assert set(METHODS) >= {'barlow', 'simclr', 'swav', 'vicreg'}
    assert issubclass(UserError, ValueError)
