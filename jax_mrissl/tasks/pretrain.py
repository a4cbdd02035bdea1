"""One pretraining stage: images in, an encoder out."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging

from jax_mrissl import __version__
from jax_mrissl.augment.policy import Policy, make_views
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.batch_axis import WHOLE_BATCH
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import MetricsLog, write_atomically, write_json
from jax_mrissl.data.catalog import advice
from jax_mrissl.data.pipeline import Shard, choose_placement, open_input
from jax_mrissl.data.pipeline import resident as resident_images
from jax_mrissl.data.prepared import PreparedSet, open_prepared
from jax_mrissl.metrics.spread import effective_rank, embedding_std
from jax_mrissl.report.montage import montage
from jax_mrissl.tasks.from_config import Common, DataPlan, Json, PretrainPlan
from jax_mrissl.tasks.programs import RowProgram, training_program
from jax_mrissl.train.checkpoint import Checkpoints, Lineage, read_encoder
from jax_mrissl.train.loop import Rhythm, run_steps
from jax_mrissl.train.parallel import Parallel, choose_parallel
from jax_mrissl.train.state import TrainState, initial_state

CHECKPOINTS = 'checkpoints'


def open_data(plan: DataPlan, data_dir: str) -> PreparedSet:
    """Opens the dataset of a plan; the error tells how to get and prepare it."""
    return open_prepared(
        data_dir, plan.name, plan.split, advice=advice(plan.name, data_dir)
    )


def pretrain_identity(
    plan: PretrainPlan, common: Common, prepared: PreparedSet
) -> Json:
    """Gives all that decides the numbers of this stage."""
    return {
        **common.identity(),
        **plan.identity(),
        'data': prepared.fingerprint,
    }


def run_pretrain(
    plan: PretrainPlan,
    common: Common,
    prepared: PreparedSet,
    folder: Path,
    lineage: Lineage,
    *,
    start_from: Path | None,
    what: str,
) -> Json:
    """Pretrains an encoder, from where an earlier start was stopped.

    Args:
        plan, common: the declaration.
        prepared: the images.
        folder: the stage's; checkpoints, metrics.jsonl and samples/ go there.
        lineage: written into each checkpoint.
        start_from: checkpoints of the stage before, whose encoder this one starts
            with; None: initialised at random.
        what: a few words for the progress bar.

    Returns: JSON facts about the run: steps, time, device, the last metrics.
    """
    began = time.monotonic()
    parallel, steps_per_epoch = lay_out(plan, common, prepared)
    rhythm = Rhythm(
        steps=plan.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        log_every=plan.log_every,
        checkpoint_every=plan.checkpoint_every_epochs * steps_per_epoch,
        monitor_every=steps_per_epoch,
    )
    declared = plan.build_optimizer()
    schedule = declared.schedule(
        batch_size=plan.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=rhythm.steps,
    )
    objective = plan.build_objective(common)
    optimizer = optax.chain(
        objective.gradient_transform(), declared.transform(schedule)
    )
    run_key = jax.random.key(common.seed)
    init_key, step_key = jax.random.split(run_key)
    shape = (plan.image_size, plan.image_size, _channels(objective, prepared))
    state = jax.jit(lambda key: initial_state(objective, optimizer, key, shape))(
        init_key
    )
    state = parallel.replicate(state)
    if start_from is not None:
        state = with_encoder(state, start_from)
    log = MetricsLog(folder / 'metrics.jsonl')
    with Checkpoints(folder / CHECKPOINTS, lineage) as checkpoints:
        if checkpoints.latest() is not None:
            state, _ = checkpoints.restore(state)
            logging.info('%s: continues at step %d.', what, int(state.step))
        else:
            write_samples(plan, prepared, step_key, folder / 'samples' / 'views.png')
        first = int(state.step)
        log.rewind(first)
        placement = choose_placement(plan.data.placement, prepared)
        source, feeds = open_input(
            prepared,
            placement,
            batch_size=plan.batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=common.seed,
            first_step=first,
            shard=Shard(jax.process_index(), jax.process_count()),
        )
        logging.info(
            '%s: %d images of %s, %d epochs of %d steps of %d images at %d pixels, on '
            '%d %s device(s), images held by: %s.',
            what,
            len(prepared),
            prepared.name,
            plan.epochs,
            steps_per_epoch,
            plan.batch_size,
            plan.image_size,
            parallel.device_count,
            jax.default_backend(),
            placement,
        )
        state = run_steps(
            state,
            training_program(objective, optimizer, parallel),
            parallel.replicate(source),
            map(parallel.place_feed, feeds),
            parallel.replicate(step_key),
            rhythm=rhythm,
            images_per_step=plan.batch_size,
            learning_rate=schedule,
            log=log,
            checkpoints=checkpoints,
            monitor=_monitor(plan, objective, prepared),
            what=what,
        )
    return {
        'steps': rhythm.steps,
        'images_per_epoch': steps_per_epoch * plan.batch_size,
        'seconds_of_last_start': round(time.monotonic() - began, 1),
        'device': device_in_words(),
        'placement': placement,
        'last': log.rows()[-1],
    }


def lay_out(
    plan: PretrainPlan, common: Common, prepared: PreparedSet
) -> tuple[Parallel, int]:
    """Gives the layout over the devices and the steps of an epoch.

    Raises:
        UserError: the batch does not fit the devices, or the dataset.
    """
    parallel = choose_parallel(common.parallel, plan.batch_size)
    if plan.batch_size > len(prepared):
        raise UserError(
            f'{plan.where}.batch_size is {plan.batch_size}, but {prepared.name} has '
            f'only {len(prepared)} images. Set it to at most that.'
        )
    return parallel, len(prepared) // plan.batch_size


def device_in_words() -> str:
    """Names the accelerator and how many of it there are."""
    return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


def make_lineage(address: str, parents: tuple[str, ...], *sets: PreparedSet) -> Lineage:
    """Makes the lineage of a stage's checkpoints."""
    return Lineage(address, parents, tuple(s.fingerprint for s in sets), __version__)


def with_encoder(state: TrainState, checkpoints: Path) -> TrainState:
    """Replaces the encoder of a fresh state by that of a pretraining run."""
    like = {
        'params': state.params['encoder'],
        'model_state': state.model_state['encoder'],
    }
    found = read_encoder(checkpoints, like)
    return dataclasses.replace(
        state,
        params=state.params | {'encoder': found['params']},
        model_state=state.model_state | {'encoder': found['model_state']},
    )


def _channels(objective: Any, prepared: PreparedSet) -> int:
    """Says how many channels the views have; a normalisation may widen gray ones."""
    canvas = jax.ShapeDtypeStruct((1, *prepared.image_shape), np.uint8)
    box = jax.ShapeDtypeStruct((1, 4), np.int32)
    rows = jax.ShapeDtypeStruct((1,), np.int32)
    policy = objective.policies[0]
    views = jax.eval_shape(policy, jax.random.key(0), canvas, box, rows)
    return views.shape[-1]


def _monitor(plan: PretrainPlan, objective: Any, prepared: PreparedSet) -> Any:
    """Makes the function that measures how far embeddings are spread out.

    It looks at a fixed part of the training images, unaugmented but for the crop of
    the whole image, in inference mode: a collapse shows here before the loss tells.
    """
    few = np.linspace(
        0, len(prepared) - 1, min(plan.monitor_images, len(prepared))
    ).astype(int)
    first, *_ = plan.views
    resize = {'name': 'resize', 'size': plan.image_size}
    normalize = [op for op in first if op['name'] == 'normalize']
    policy = dataclasses.replace(plan, views=[[resize, *normalize]]).build_policies()[0]

    def embed(params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        variables = {'params': params['encoder'], **model_state['encoder']}
        return objective.encoder.apply(variables, images, train=False)

    program = RowProgram(embed, policy, min(len(few), 256))
    held: list[Any] = []

    def monitor(state: TrainState) -> dict[str, float]:
        if not held:
            held.append(jax.device_put(resident_images(prepared.select(few))))
        embeddings = program(
            state.params, state.model_state, held[0], np.arange(len(few))
        )
        return {
            'embedding_std': embedding_std(embeddings),
            'effective_rank': effective_rank(embeddings),
        }

    return monitor


def write_samples(
    plan: PretrainPlan, prepared: PreparedSet, key: jax.Array, path: Path
) -> None:
    """Draws some images beside the views that training makes of them."""
    rows = np.linspace(0, len(prepared) - 1, min(8, len(prepared))).astype(int)
    batch = Batch(
        image=prepared.images(rows),
        box=prepared.boxes[rows],
        label=prepared.labels[rows],
        mask=np.ones(len(rows), np.float32),
    )
    policies: list[Policy] = []
    for view in plan.views:
        shown = [op for op in view if op['name'] != 'normalize']
        policies += dataclasses.replace(plan, views=[shown]).build_policies()

    @jax.jit
    def draw(repeat: int) -> list[jax.Array]:
        repeat_key = jax.random.fold_in(key, repeat)
        views = make_views(repeat_key, batch, tuple(policies), WHOLE_BATCH)
        return [view.image for view in views]

    views = [np.asarray(view) for repeat in range(3) for view in draw(repeat)]
    names = [f'view {i % len(policies) + 1}' for i in range(len(views))]
    pictures = [
        [batch.image[row], *(view[row] for view in views)] for row in range(len(rows))
    ]
    write_atomically(path, montage(pictures, ['image', *names]))
    write_json(path.with_suffix('.json'), {'views': plan.views})
