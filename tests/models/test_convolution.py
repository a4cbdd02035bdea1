import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_mrissl.models.convolution import conv, max_pool

# kernel, stride, padding, height, width, channels in and out, batch: every path of
# the CPU's form (1 x 1, few channels, filters of both sizes, im2col), odd and even
# sizes, tiny ones.
CASES = [
    (1, 1, 0, 7, 6, 5, 4, 2),
    (1, 2, 0, 7, 8, 5, 4, 2),
    (3, 1, 1, 9, 8, 8, 6, 2),
    (3, 1, 1, 2, 2, 16, 16, 3),
    (3, 1, 1, 4, 4, 32, 32, 2),
    (3, 1, 1, 7, 5, 32, 40, 1),
    (3, 1, 1, 2, 2, 40, 32, 2),
    (3, 1, 0, 8, 5, 32, 32, 1),
    (3, 1, 1, 1, 2, 32, 32, 1),
    (3, 1, 1, 1, 1, 8, 8, 1),
    (3, 1, 1, 2, 1, 32, 32, 1),
    (3, 1, 0, 6, 5, 8, 4, 2),
    (3, 2, 1, 9, 8, 8, 6, 2),
    (3, 2, 1, 4, 4, 64, 32, 2),
    (3, 2, 1, 1, 2, 8, 4, 1),
    (3, 1, 1, 8, 8, 3, 8, 2),
    (3, 1, 1, 8, 8, 1, 8, 2),
    (7, 2, 3, 17, 16, 3, 8, 2),
    (7, 2, 3, 17, 16, 1, 8, 2),
    (5, 1, 2, 8, 9, 6, 5, 1),
]


def arrays(case):
    size, _, _, height, width, channels, features, batch = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, channels))
    return jnp.array(x), jnp.array(rng.normal(size=(size, size, channels, features)))


def reference(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients_equal_lax(float64, case):
    _, stride, padding, *_ = case
    x, kernel = arrays(case)

    @jax.jit
    def both(x, kernel, seed):
        ours, ours_vjp = jax.vjp(
            lambda x, k: conv(x, k, stride=stride, padding=padding), x, kernel
        )
        theirs, theirs_vjp = jax.vjp(
            lambda x, k: reference(x, k, stride, padding), x, kernel
        )
        cotangent = jax.random.normal(seed, theirs.shape, theirs.dtype)
        return (ours, *ours_vjp(cotangent)), (theirs, *theirs_vjp(cotangent))

    ours, theirs = both(x, kernel, jax.random.key(0))
    for one, two in zip(ours, theirs, strict=True):
        scale = np.abs(two).max()
        # Largest error seen: 2e-15 of the largest value.
        np.testing.assert_allclose(one / scale, two / scale, atol=1e-12)


def test_batch_may_be_spread_over_devices(float64):
    x, kernel = arrays((3, 1, 1, 9, 8, 8, 6, 8))

    def run(x, kernel):
        def loss(kernel):
            y = conv(x, kernel, stride=1, padding=1)
            return (y**2).sum(), y

        gradient, y = jax.grad(loss, has_aux=True)(kernel)
        return y, gradient

    y, gradient = jax.jit(run)(x, kernel)
    mesh = jax.make_mesh((4,), ('batch',), axis_types=(AxisType.Auto,))
    rows = jax.device_put(x, NamedSharding(mesh, P('batch')))
    spread = jax.jit(run)(rows, kernel)
    folded = jax.pmap(run, in_axes=(0, None))(x.reshape(4, 2, *x.shape[1:]), kernel)
    single = jax.jit(jax.vmap(run, in_axes=(0, None)))(x[:, None], kernel)
    for found, found_gradient in (spread, folded, single):
        np.testing.assert_allclose(found.reshape(y.shape), y, rtol=1e-9, atol=1e-9)
        total = found_gradient.reshape(-1, *kernel.shape).sum(0)
        np.testing.assert_allclose(total, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ('platform', 'products', 'convolutions'),
    [('cpu', True, False), ('cuda', False, True), ('tpu', False, True)],
)
def test_only_a_cpu_gets_matrix_products(platform, products, convolutions):
    x, kernel = (a.astype(jnp.float32) for a in arrays((3, 1, 1, 9, 8, 8, 6, 2)))

    def loss(x, kernel):
        return (max_pool(conv(x, kernel, stride=1, padding=1)) ** 2).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    program = export.export(step, platforms=[platform])(x, kernel).mlir_module()
    assert ('dot_general' in program) == products
    assert ('stablehlo.convolution' in program) == convolutions
    assert ('select_and_scatter' in program) == convolutions


def test_bfloat16_stays_bfloat16():
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays((3, 1, 1, 9, 8, 8, 6, 2)))
    found = conv(x, kernel, stride=1, padding=1)
    assert found.dtype == jnp.bfloat16
    exact = conv(x.astype(jnp.float32), kernel.astype(jnp.float32), stride=1, padding=1)
    # bfloat16 has 8 bits; the largest value is about 30.
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.2)


@pytest.mark.parametrize(
    'shape', [(2, 8, 8, 3), (2, 7, 9, 3), (1, 1, 1, 2), (1, 2, 3, 1)]
)
def test_max_pool_equals_lax(float64, shape):
    x = jnp.array(np.random.default_rng(0).normal(size=shape))

    def theirs(x):
        return lax.reduce_window(
            x,
            -jnp.inf,
            lax.max,
            (1, 3, 3, 1),
            (1, 2, 2, 1),
            ((0, 0), (1, 1), (1, 1), (0, 0)),
        )

    ours_value, ours_vjp = jax.vjp(max_pool, x)
    value, vjp = jax.vjp(theirs, x)
    np.testing.assert_array_equal(ours_value, value)
    cotangent = jnp.array(np.random.default_rng(1).normal(size=value.shape))
    np.testing.assert_allclose(ours_vjp(cotangent)[0], vjp(cotangent)[0], atol=1e-12)


def test_the_first_of_equal_values_gets_the_gradient():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, ..., 0], [[1, 0], [0, 0]])


def test_a_nan_does_not_leave_its_windows():
    x = jnp.arange(64.0).reshape(1, 8, 8, 1)
    clean, found = max_pool(x), max_pool(x.at[0, 2, 2, 0].set(jnp.nan))
    # Row and column 2 lie in the window of index 1 alone.
    apart = np.ones((1, 4, 4, 1), bool)
    apart[0, 1, 1, 0] = False
    np.testing.assert_array_equal(found[apart], clean[apart])


def test_a_shape_that_cannot_be_right_is_refused():
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match='does not fit'):
        conv(x, jnp.zeros((3, 3, 4, 8)), stride=1, padding=1)
    with pytest.raises(ValueError, match=r'kernel \[k, k, C, D\]'):
        conv(x, jnp.zeros((3, 1, 3, 8)), stride=1, padding=1)
