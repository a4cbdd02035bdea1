"""The parts of a training step as programs of their own, to be timed alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_mrissl.augment.policy import make_views
from jax_mrissl.core.batch_axis import BatchAxis
from jax_mrissl.data.pipeline import fetch
from jax_mrissl.objectives.networks import run_network, side_by_side
from jax_mrissl.tasks.pretrain import Training
from jax_mrissl.tasks.program_run import ProgramRun
from jax_mrissl.train.state import TrainState

# These, one after the other, are a step; the rest looks closer at the second.
STEP_PARTS = ('augmentation', 'networks', 'loss', 'optimizer')


def part_runs(
    training: Training, state: TrainState, source: Any, feed: Any, key: jax.Array
) -> dict[str, tuple[ProgramRun, Any]]:
    """Compiles the parts of a step, each with the inputs that it has in one.

    Args:
        training: the stage, built.
        state: fresh.
        source, feed: of the input, on the host; `feed` is this process's rows.
        key: of the draws.

    Returns: by name, the program and the feed that it is run on:
        'augmentation': from stored images to views;
        'networks': projections of the views, and their gradient;
        'loss': of the projections, and its gradient;
        'optimizer': from gradients to the next parameters;
        'networks_forward': projections alone;
        'encoder', 'encoder_forward': the same without the head.
    """
    objective, parallel = training.objective, training.parallel
    batch = fetch(jax.tree.map(jnp.asarray, source), jax.tree.map(jnp.asarray, feed))
    views, projections = _examples(training, state, batch, key)
    batch = jax.device_get(batch)

    def augment(_: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        batch = fetch(source, feed)
        ids = axis.row_ids(len(batch.mask))
        return (), _touched(make_views(key, batch, objective.policies, ids))

    def project(source: Any, views: Any, axis: BatchAxis) -> Any:
        params, model_state = source
        return objective.project(params, model_state, views, axis=axis)

    def encode(source: Any, views: Any, axis: BatchAxis) -> Any:
        params, model_state = (tree['encoder'] for tree in source)
        found = []
        for shape in dict.fromkeys(view.shape for view in views):
            alike = [view for view in views if view.shape == shape]
            h, model_state = run_network(
                objective.encoder, params, model_state, side_by_side(alike), axis
            )
            found.append(h)
        return found, model_state

    def criterion(_: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        del key
        params, model_state = source
        projections, batch = feed

        def loss(params: Any, projections: Any) -> Any:
            return objective.criterion(
                params, model_state, projections, batch, axis=axis
            )

        (value, aux), slopes = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            params, projections
        )
        # No barrier: a method without parameters here has nothing to write.
        return (), value + optax.tree.norm(slopes) + _touched(aux.model_state['head'])

    def update(state: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        del feed, key, axis
        params, opt_state = state
        updates, opt_state = training.optimizer.update(source, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), ()

    networks = (state.params, state.model_state)
    own = (state.params, state.opt_state)
    slopes = jax.tree.map(jnp.ones_like, state.params)
    no_image = batch.replace(image=(), partner_image=None)
    declared: dict[str, tuple[Callable, Any, Any, Any]] = {
        'augmentation': (augment, (), source, feed),
        'networks': (_with_gradient(project), (), networks, views),
        'loss': (criterion, (), networks, (projections, no_image)),
        'optimizer': (update, own, slopes, ()),
        'networks_forward': (_forward(project), (), networks, views),
        'encoder': (_with_gradient(encode), (), networks, views),
        'encoder_forward': (_forward(encode), (), networks, views),
    }
    runs = {}
    for name, (step, carried, held, given) in declared.items():
        placed = parallel.place_feed(given)
        program = parallel.compile(step)
        run = ProgramRun(program, carried, held, key, placed, parallel)
        runs[name] = run, placed
    return runs


def _forward(network: Callable) -> Callable:
    """Makes a step of a network's forward pass."""

    def step(_: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        del key
        return (), _touched(network(source, feed, axis))

    return step


def _with_gradient(network: Callable) -> Callable:
    """Makes a step of a network's forward and backward pass."""

    def step(_: Any, source: Any, feed: Any, key: Any, *, axis: BatchAxis) -> Any:
        del key
        params, model_state = source

        def loss(params: Any) -> Any:
            outputs, moved = network((params, model_state), feed, axis)
            # The outputs themselves are the gradient that comes from above.
            return sum(jnp.square(x).sum() for x in jax.tree.leaves(outputs)), moved

        slopes, moved = jax.grad(loss, has_aux=True)(params)
        return (), _touched((slopes, moved))

    return step


def _touched(tree: Any) -> jax.Array:
    """Reads every number of a tree, so that the compiler leaves none out."""
    leaves = jax.tree.leaves(lax.optimization_barrier(tree))
    return sum(
        (leaf.astype(jnp.float32).sum() for leaf in leaves), start=jnp.float32(0)
    )


def _examples(
    training: Training, state: TrainState, batch: Any, key: jax.Array
) -> tuple[Any, Any]:
    """Gives views of a batch, and numbers in the shapes of its projections."""
    objective = training.objective
    rows = jnp.arange(len(batch.mask), dtype=jnp.int32)
    views = jax.jit(lambda: make_views(key, batch, objective.policies, rows))()
    shapes, _ = jax.eval_shape(
        lambda: objective.project(
            state.params, state.model_state, views, axis=BatchAxis()
        )
    )
    rng = np.random.default_rng(0)
    # Rows of about length one: methods that scale them to it would give no others.
    projections = jax.tree.map(
        lambda z: (rng.normal(size=z.shape) / z.shape[-1] ** 0.5).astype(z.dtype),
        shapes,
    )
    return jax.device_get(views), projections
