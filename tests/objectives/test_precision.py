"""Networks may compute in bfloat16; projections, codes and losses never do."""

import jax
import jax.numpy as jnp
import pytest
from test_parallel import OBJECTIVES, SIZE, objective

from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH


@pytest.mark.parametrize('name', OBJECTIVES)
def test_bfloat16_networks_keep_losses_in_float32(name):
    minimised = objective(name, jnp.bfloat16)
    encoder = minimised.encoder.clone(param_dtype=jnp.float32)
    if name == 'supervised':
        head = minimised.head.clone(param_dtype=jnp.float32)
        changes = {'encoder': encoder, 'head': head}
    else:
        changes = {'encoder': encoder, 'param_dtype': jnp.float32}
    minimised = type(minimised)(**{**vars(minimised), **changes})
    rows = 4
    sizes = [8 if policy.crop.size == 8 else SIZE for policy in minimised.policies]
    batch = Batch(
        image=None,
        box=None,
        label=jnp.zeros(rows, jnp.int32),
        mask=jnp.ones(rows),
        group=jnp.arange(rows),
    )

    def run():
        params, state = minimised.init(jax.random.key(0), (SIZE, SIZE, 3))
        views = tuple(jnp.zeros((rows, size, size, 3)) for size in sizes)
        z, after = minimised.project(params, state, views, axis=WHOLE_BATCH)
        loss, aux = minimised.criterion(params, after, z, batch, axis=WHOLE_BATCH)
        return params, state, z, loss, aux

    params, state, z, loss, aux = jax.eval_shape(run)
    floats = (jnp.float32, jnp.int32)
    for leaf in jax.tree.leaves((params, z, loss, aux.metrics)):
        assert leaf.dtype in floats
    # And no leaf changes its type from step to step.
    types = jax.tree.map(lambda x: (x.shape, x.dtype), (state, aux.model_state))
    assert types[0] == types[1]
