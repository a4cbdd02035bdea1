"""One pretraining stage: images in, an encoder out."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from jax_mrissl.augment.policy import Policy, make_views
from jax_mrissl.augment.recipes import leave_out_colour
from jax_mrissl.core import processes
from jax_mrissl.core.batch import Batch
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import MetricsLog, write_atomically, write_json
from jax_mrissl.data.catalog import advice
from jax_mrissl.data.pipeline import (
    Rows,
    Shard,
    choose_placement,
    fetch,
    open_input,
    partner_draw,
    resident,
)
from jax_mrissl.data.prepared import PreparedSet, open_prepared
from jax_mrissl.data.splits import share_of_rows
from jax_mrissl.objectives.objective import Objective
from jax_mrissl.report.montage import montage
from jax_mrissl.tasks.from_config import Common, DataPlan, Json, PretrainPlan
from jax_mrissl.tasks.programs import (
    channels_of,
    initial_program,
    shared,
    training_program,
)
from jax_mrissl.tasks.watch import ProbeSet, Watch, collapse_signs, watched_rows
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.loop import Monitor, Rhythm, run_steps
from jax_mrissl.train.optimizer import Optimizer, Schedule
from jax_mrissl.train.parallel import Parallel, choose_parallel
from jax_mrissl.train.start import CHECKPOINTS, Start
from jax_mrissl.train.state import TrainState

# Between two checkpoints, or looks at the embeddings, are so many steps at least, or a
# share of the run where it is short.
_FEW_STEPS, _FEW_STOPS = 50, 20
# Draws of every view in the picture of views.
_REPEATS = 3


class Follow(Protocol):
    """Looks at an encoder while it is pretrained; may give it up by raising."""

    def __call__(
        self, state: TrainState, *, before: float, now: float
    ) -> Mapping[str, float]:
        """Looks, where a look is due.

        Args:
            state: on the devices.
            before, now: which shares of the run's steps were done when it was called
                the last time, or the run went on, and are done now.

        Returns: what is to be logged.
        """


def open_data(plan: DataPlan, data_dir: str) -> PreparedSet:
    """Opens the dataset of a plan; the error tells how to get and prepare it."""
    prepared = open_prepared(
        data_dir, plan.name, plan.split, advice=advice(plan.name, data_dir)
    )
    if plan.fraction == 1:
        return prepared
    groups, images = prepared.groups, prepared.pixel_sha256
    return prepared.select(share_of_rows(groups, images, plan.fraction))


def pretrain_identity(
    plan: PretrainPlan, common: Common, prepared: PreparedSet
) -> Json:
    """Gives all that decides the numbers of this stage."""
    left_out = {'left_out': list(prepared.left_out)} if prepared.left_out else {}
    return {
        **common.identity(),
        **plan.identity(),
        'data': prepared.fingerprint,
        **left_out,
    }


def run_pretrain(
    plan: PretrainPlan,
    common: Common,
    prepared: PreparedSet,
    folder: Path,
    lineage: Lineage,
    *,
    start_from: Start | None,
    probe_set: ProbeSet | None,
    what: str,
    follow: Follow | None = None,
) -> Json:
    """Pretrains an encoder, from where an earlier start was stopped.

    Args:
        plan, common: the declaration.
        prepared: the images.
        folder: the stage's; checkpoints, metrics.jsonl and samples/ go there.
        lineage: written into each checkpoint.
        start_from: whose encoder this one starts with; None: initialised at random.
        probe_set: labelled images that the encoder is tried on, now and then; what it
            reaches is logged, and decides nothing. None: none.
        what: a few words for the progress bar.
        follow: looks on, whenever embeddings are measured; None: nobody.

    Returns: JSON facts about the run: steps, time, device, the last metrics.
    """
    began = time.monotonic()
    training = set_up(plan, common, prepared)
    plan, parallel = training.plan, training.parallel
    steps_per_epoch = training.steps_per_epoch
    objective, optimizer = training.objective, training.optimizer
    schedule = training.schedule
    steps = plan.epochs * steps_per_epoch
    # Epochs of a few steps are no reason to stop at each.
    least = min(_FEW_STEPS, -(-steps // _FEW_STOPS))
    rhythm = Rhythm(
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        log_every=plan.log_every,
        checkpoint_every=max(plan.checkpoint_every_epochs * steps_per_epoch, least),
        monitor_every=max(plan.watch.every_epochs * steps_per_epoch, least),
    )
    for sentence in objective.advice():
        logging.warning('%s: %s', what, sentence)
    if schedule.warmup_steps >= rhythm.steps:
        logging.warning(
            '%s: the warm-up takes all %d epochs, so the learning rate never falls. '
            'Lower optimizer.warmup_epochs.',
            what,
            plan.epochs,
        )
    run_key = jax.random.key(common.seed)
    init_key, step_key = jax.random.split(run_key)
    state = parallel.replicate(training.initial(prepared, init_key))
    if start_from is not None:
        state = start_from.give_to(state)
    log = MetricsLog(folder / 'metrics.jsonl')
    with Checkpoints(folder / CHECKPOINTS, lineage) as checkpoints:
        extra: dict[str, Any] = {}
        if checkpoints.latest() is not None:
            state, extra = checkpoints.restore(state)
            logging.info('%s: continues at step %d.', what, int(state.step))
        elif processes.is_first():
            picture = folder / 'samples' / 'views.png'
            write_samples(plan, prepared, step_key, picture, seed=common.seed)
        watch = Watch(
            plan.watch,
            objective,
            prepared,
            probe_set,
            evaluation_policy=evaluation_policy(plan),
            training_policies=objective.policies,
            steps_per_epoch=steps_per_epoch,
            steps=rhythm.steps,
            call_every=rhythm.monitor_every,
        )
        first = int(state.step)
        log.rewind(first)
        if processes.share(lambda: not log.rows()):
            log.write(first, watch.measure(state))  # what the others are held against
        watch.recall(processes.share(lambda: watched_rows(log.rows())))
        monitor = _followed(watch, follow, first, rhythm.steps) if follow else watch
        placement = processes.share(
            lambda: choose_placement(plan.data.placement, prepared)
        )
        source, feeds = open_input(
            prepared,
            placement,
            batch_size=plan.batch_size,
            steps_per_epoch=steps_per_epoch,
            seed=common.seed,
            first_step=first,
            shard=Shard.own(),
            partners=plan.positives == 'subject',
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
            training_program(objective, optimizer, parallel, chunks=plan.chunks),
            parallel.replicate(source),
            map(parallel.place_feed, feeds),
            parallel.replicate(step_key),
            rhythm=rhythm,
            images_per_step=plan.batch_size,
            learning_rate=schedule,
            log=log,
            checkpoints=checkpoints,
            monitor=monitor,
            what=what,
            window=extra.get('window', ()),
        )
    *before, last = processes.share(lambda: watched_rows(log.rows()))
    return {
        'steps': rhythm.steps,
        'collapse': list(collapse_signs(last, before, ended=True).values()),
        'images_per_epoch': steps_per_epoch * plan.batch_size,
        'seconds_of_last_start': round(time.monotonic() - began, 1),
        'device': device_in_words(),
        'placement': placement,
        'last': last,
    }


def _followed(watch: Watch, follow: Follow, first: int, steps: int) -> Monitor:
    """Lets another one look on beside the watch, from step `first` of `steps` on."""
    last = first

    def monitor(state: TrainState, means: Mapping[str, float]) -> dict[str, float]:
        nonlocal last
        values = watch(state, means)
        before, last = last, int(state.step)
        return {**values, **follow(state, before=before / steps, now=last / steps)}

    return monitor


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A pretraining stage, built.

    Attributes:
        plan: the declaration; what does nothing to gray images is left out.
        parallel: the layout over the devices.
        steps_per_epoch: whole batches of the set.
        objective, optimizer, schedule: what is minimised, and how.
    """

    plan: PretrainPlan
    parallel: Parallel
    steps_per_epoch: int
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: Any

    def initial(self, prepared: PreparedSet, key: jax.Array) -> TrainState:
        """Draws the state that training starts from."""
        size = self.plan.image_size
        channels = channels_of(self.objective.policies[0], prepared.image_shape)
        shape = (size, size, channels)
        return initial_program(self.objective, self.optimizer, shape)(key)


def set_up(plan: PretrainPlan, common: Common, prepared: PreparedSet) -> Training:
    """Builds what a declaration asks for.

    Raises:
        UserError: as `lay_out`.
    """
    plan = _gray_aware(plan, prepared)
    parallel, steps_per_epoch = lay_out(plan, common, prepared)
    declared = plan.build_optimizer()
    schedule = declared.schedule(
        batch_size=plan.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=plan.epochs * steps_per_epoch,
    )
    objective = plan.build_objective(common, steps_per_epoch=steps_per_epoch)
    optimizer = _update_rule(objective, declared, schedule)
    return Training(plan, parallel, steps_per_epoch, objective, optimizer, schedule)


@shared
def _update_rule(
    objective: Objective, declared: Optimizer, schedule: Schedule
) -> optax.GradientTransformation:
    """Gives equal declarations the same rule, as programs are told apart by it."""
    return objective.optimize(declared.transform, schedule)


def lay_out(
    plan: PretrainPlan, common: Common, prepared: PreparedSet
) -> tuple[Parallel, int]:
    """Gives the layout over the devices and the steps of an epoch.

    Raises:
        UserError: the batch does not fit the devices, or the dataset; or there are no
            pairs of images of one subject, and they are asked for.
    """
    parallel = choose_parallel(
        common.parallel,
        plan.batch_size,
        plan.chunks,
        where=f'{plan.where}.batch_size',
    )
    if plan.batch_size > len(prepared):
        raise UserError(
            f'{plan.where}.batch_size is {plan.batch_size}, but {prepared.name} has '
            f'only {len(prepared)} images. Set it to at most that.'
        )
    if plan.positives == 'subject' and len(set(prepared.groups)) == len(prepared):
        raise UserError(
            f"{plan.where}.positives is 'subject', but in {prepared.name} every image "
            "is its subject's only one. Set it to 'image'."
        )
    return parallel, len(prepared) // plan.batch_size


def device_in_words() -> str:
    """Names the accelerator and how many of it there are."""
    return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


def evaluation_policy(plan: PretrainPlan) -> Policy:
    """Makes the view of the whole image, normalised as in training."""
    first, *_ = plan.views
    resize = {'name': 'resize', 'size': plan.image_size}
    normalize = [op for op in first if op['name'] == 'normalize']
    return dataclasses.replace(plan, views=[[resize, *normalize]]).build_policies()[0]


def _gray_aware(plan: PretrainPlan, prepared: PreparedSet) -> PretrainPlan:
    """Leaves out of the views what does nothing to gray images, and says so."""
    if prepared.image_shape[-1] != 1:
        return plan
    views, left_out = zip(*map(leave_out_colour, plan.views), strict=True)
    if names := list(dict.fromkeys(name for names in left_out for name in names)):
        _tell_once(
            f'{prepared.name} is gray: {", ".join(names)} would do nothing and '
            f'{"is" if len(names) == 1 else "are"} left out of the views.'
        )
    return dataclasses.replace(plan, views=list(views))


@functools.cache
def _tell_once(words: str) -> None:
    """Logs a sentence; the many stages of a study would repeat it."""
    logging.info('%s', words)


def write_samples(
    plan: PretrainPlan,
    prepared: PreparedSet,
    key: jax.Array,
    path: Path,
    *,
    seed: int,
) -> None:
    """Draws some images beside the views that training makes of them.

    Args:
        plan: the declaration.
        prepared: the images.
        key: of the views, as training folds the step into it.
        path: of the picture; a JSON beside it tells the views.
        seed: of the partners, where views are of two images of a subject.
    """
    rows = np.linspace(0, len(prepared) - 1, min(8, len(prepared))).astype(np.int32)
    policies: list[Policy] = []
    for view in plan.views:
        shown = [op for op in view if op['name'] != 'normalize']
        policies += dataclasses.replace(plan, views=[shown]).build_policies()

    draw = _view_program(tuple(policies))
    of_subject = plan.positives == 'subject'
    partners: list[np.ndarray] = []
    if of_subject:
        draw_partners = partner_draw(prepared.group_numbers, seed)
        partners = [draw_partners(repeat, rows) for repeat in range(_REPEATS)]
    chosen = prepared.select(np.concatenate([rows, *partners]))
    source = resident(chosen)
    place, mask = np.arange(len(rows)), np.ones(len(rows))
    views: list[np.ndarray] = []
    for repeat in range(_REPEATS):
        partner = place + (repeat + 1) * len(rows) if of_subject else None
        batch = fetch(source, Rows(place, mask, partner))
        views += map(np.asarray, draw(jax.random.fold_in(key, repeat), batch))
    names = [f'view {i + 1}' for i in range(len(policies))]
    if of_subject:
        names[1::2] = [f'{name}, same subject' for name in names[1::2]]
    pictures = [
        [chosen.shown_image(row), *(view[row] for view in views)]
        for row in range(len(rows))
    ]
    write_atomically(path, montage(pictures, ['image', *_REPEATS * names]))
    write_json(path.with_suffix('.json'), {'views': plan.views})


@shared
def _view_program(policies: tuple[Policy, ...]) -> Callable[..., tuple[jax.Array, ...]]:
    def draw(key: jax.Array, batch: Batch) -> tuple[jax.Array, ...]:
        return make_views(key, batch, policies, jnp.arange(len(batch.mask)))

    return jax.jit(draw)
