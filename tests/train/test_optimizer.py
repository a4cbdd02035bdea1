import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError
from jax_mrissl.train.optimizer import (
    LARS,
    OPTIMIZERS,
    SGD,
    AdamW,
    WarmupCosine,
    tunable,
    with_settings,
)

CONSTANT = WarmupCosine(peak=0.1, warmup_steps=0, total_steps=10**9)


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        'kernel': jnp.array(rng.normal(size=(3, 4))),
        'bias': jnp.array(rng.normal(size=4)),
    }


def run(declared, gradients, *, schedule=CONSTANT):
    transform, values = declared.transform(schedule), params()
    state = transform.init(values)
    for gradient in gradients:
        updates, state = transform.update(gradient, state, values)
        values = optax.apply_updates(values, updates)
    return values


def gradients(count=3):
    return [params(seed) for seed in range(1, 1 + count)]


def test_schedule_warms_up_from_zero_and_ends_at_its_fraction():
    schedule = WarmupCosine(
        peak=2.0, warmup_steps=10, total_steps=110, final_fraction=0.1
    )
    seen = [float(schedule(step)) for step in (0, 5, 10, 60, 110, 200)]
    np.testing.assert_allclose(seen, [0, 1.0, 2.0, 1.1, 0.2, 0.2], rtol=1e-6)


def test_rate_is_proportional_to_the_batch():
    schedule = SGD(rate_per_256=0.2).schedule(
        batch_size=64, steps_per_epoch=5, steps=20
    )
    np.testing.assert_allclose(schedule(0), 0.05, rtol=1e-6)


def test_sgd_equals_its_definition(float64):
    declared = SGD(rate_per_256=0.1, momentum=0.9, weight_decay=0.01)
    values = {k: np.array(v) for k, v in params().items()}
    velocity = {k: np.zeros_like(v) for k, v in values.items()}
    for gradient in gradients():
        for name, decay in (('kernel', 0.01), ('bias', 0.0)):
            g = np.array(gradient[name]) + decay * values[name]
            velocity[name] = 0.9 * velocity[name] + g
            values[name] = values[name] - 0.1 * velocity[name]
    found = run(declared, gradients())
    for name in values:
        # The schedule is float32: the rate of 0.1 is off by 1.5e-8.
        np.testing.assert_allclose(found[name], values[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('rate_enters', ['after_momentum', 'before_momentum'])
def test_lars_equals_its_definition(float64, rate_enters):
    declared = LARS(
        rate_per_256=0.1,
        bias_rate_per_256=0.002,
        weight_decay=0.01,
        rate_enters=rate_enters,
    )
    # A rate that moves: with a constant one both forms are the same.
    schedule = WarmupCosine(peak=0.1, warmup_steps=4, total_steps=8)
    values = {k: np.array(v) for k, v in params().items()}
    velocity = {k: np.zeros_like(v) for k, v in values.items()}
    for step, gradient in enumerate(gradients()):
        for name in values:
            g = np.array(gradient[name])
            rate = 0.1 * step / 4
            if name == 'kernel':
                g = g + 0.01 * values[name]
                g *= 0.001 * np.linalg.norm(values[name]) / np.linalg.norm(g)
            else:
                rate *= 0.002 / 0.1
            if rate_enters == 'after_momentum':
                velocity[name] = 0.9 * velocity[name] + g
                values[name] = values[name] - rate * velocity[name]
            else:
                velocity[name] = 0.9 * velocity[name] + rate * g
                values[name] = values[name] - velocity[name]
    found = run(declared, gradients(), schedule=schedule)
    for name in values:
        np.testing.assert_allclose(found[name], values[name], rtol=1e-6)


def test_first_lars_step_has_the_norm_that_its_definition_promises(float64):
    declared = LARS(rate_per_256=0.1)
    [gradient] = gradients(1)
    for scale in (1.0, 1e4):
        scaled = jax.tree.map(lambda g, s=scale: g * s, gradient)
        moved = run(declared, [scaled])['kernel'] - params()['kernel']
        expected = 0.1 * 0.001 * np.linalg.norm(params()['kernel'])
        np.testing.assert_allclose(np.linalg.norm(moved), expected, rtol=1e-6)


def test_decay_of_everything_reaches_biases(float64):
    zero = [jax.tree.map(jnp.zeros_like, params())]
    weights = run(SGD(rate_per_256=0.1, weight_decay=0.5), zero)
    everything = run(SGD(rate_per_256=0.1, weight_decay=0.5, decays='all'), zero)
    np.testing.assert_array_equal(weights['bias'], params()['bias'])
    np.testing.assert_allclose(everything['bias'], params()['bias'] * 0.95)
    np.testing.assert_allclose(weights['kernel'], params()['kernel'] * 0.95)


def test_adamw_is_optax_with_a_mask(float64):
    declared = AdamW(rate_per_256=0.1, weight_decay=0.01)
    found = run(declared, gradients())
    mask = {'kernel': True, 'bias': False}
    reference, values = optax.adamw(0.1, weight_decay=0.01, mask=mask), params()
    state = reference.init(values)
    for gradient in gradients():
        updates, state = reference.update(gradient, state, values)
        values = optax.apply_updates(values, updates)
    for name in values:
        np.testing.assert_allclose(found[name], values[name], rtol=1e-7)


def test_a_misspelt_field_is_answered_with_the_right_one():
    with pytest.raises(UserError, match="Did you mean 'weight_decay'"):
        build(
            OPTIMIZERS,
            {'name': 'sgd', 'rate_per_256': 0.1, 'wieght_decay': 1.0},
            where='config.pretrain.optimizer',
        )
    with pytest.raises(UserError, match="decays is 'biases'"):
        build(
            OPTIMIZERS,
            {'name': 'sgd', 'rate_per_256': 0.1, 'decays': 'biases'},
            where='config.pretrain.optimizer',
        )


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lars'])
def test_tried_settings_equal_a_rule_declared_with_them(name):
    schedule = WarmupCosine(peak=0.1, warmup_steps=2, total_steps=6)
    kind = OPTIMIZERS[name]
    rule = tunable(kind(rate_per_256=0.1, weight_decay=0.3), schedule)
    declared = kind(rate_per_256=0.1, weight_decay=0.05).transform(
        lambda step: 0.25 * schedule(step)
    )
    ours = theirs = params()
    state = with_settings(rule.init(ours), rate_ratio=0.25, weight_decay=0.05)
    other = declared.init(theirs)
    for step in range(5):
        grads = jax.tree.map(lambda p, step=step: jnp.cos(p + step), ours)
        updates, state = rule.update(grads, state, ours)
        expected, other = declared.update(grads, other, theirs)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected
        )
        ours = optax.apply_updates(ours, updates)
        theirs = optax.apply_updates(theirs, expected)


def test_a_decay_declared_as_a_whole_number_is_no_whole_number():
    schedule = AdamW(rate_per_256=1.0).schedule(
        batch_size=256, steps_per_epoch=1, steps=2
    )
    rule = tunable(AdamW(rate_per_256=1.0, weight_decay=0), schedule)
    state = with_settings(
        rule.init({'w': jnp.ones((2, 2))}), rate_ratio=1.0, weight_decay=0.1
    )
    assert float(state.hyperparams['weight_decay']) == pytest.approx(0.1)
