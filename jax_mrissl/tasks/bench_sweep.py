"""How the cost of pretraining grows with the batch, the pixels, the devices."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging

from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.data.catalog import DATASETS
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.data.random_images import random_images
from jax_mrissl.tasks.bench import Effort, measure
from jax_mrissl.tasks.from_config import Common, Json, PretrainPlan
from jax_mrissl.tasks.pretrain import open_data

SWEEPS = ('batch', 'pixels', 'devices')
_LEAST_IMAGES = 1024


def images_of(plan: PretrainPlan, common: Common, *, canvas: int) -> PreparedSet:
    """Opens the images of a plan; where there are none, makes random ones.

    Args:
        plan, common: the declaration.
        canvas: of random images, in pixels.
    """
    try:
        return open_data(plan.data, common.data_dir)
    except UserError as error:
        declared = DATASETS.get(plan.data.name)
        channels = 3 if declared and declared.channels == 3 else 1
        count = max(_LEAST_IMAGES, 4 * plan.batch_size)
        logging.warning(
            '%s\nMeasured on %d RANDOM images of %d pixels in its place.',
            str(error).partition('\n')[0],
            count,
            canvas,
        )
        return random_images('random', count, canvas=canvas, channels=channels)


def sweep(
    plan: PretrainPlan,
    common: Common,
    effort: Effort,
    quantity: str,
    values: Sequence[int],
    *,
    canvas: int,
) -> Json:
    """Measures a stage at several sizes.

    Args:
        plan, common: the declaration.
        effort: how long to measure, at each.
        quantity: of `SWEEPS`; the others stay. `devices` share the same batch.
        values: in this order; (): around the plan's, or up to all devices.
        canvas: of random images, where there are no others.

    Returns: `quantity`, `values`, `points` (as of `measure`, or `failed`: why there is
        none, such as a batch that the set or the memory is too small for), and
        `growth`: the power of the value that the time of a step grows with; None of
        fewer than two.

    Raises:
        UserError: an unknown quantity, more devices than there are, or none of the
            values can be measured.
    """
    expect_known(quantity, SWEEPS, '--sweep')
    values = list(values) or _usual_values(quantity, plan)
    devices = jax.device_count()
    if quantity == 'devices' and max(values) > devices:
        raise UserError(
            f'--sweep=devices: {max(values)} are asked for, and there are {devices}. '
            'On a CPU set JAX_NUM_CPU_DEVICES.'
        )
    points = []
    for value in values:
        given = plan
        if quantity == 'batch':
            given = dataclasses.replace(plan, batch_size=value)
        if quantity == 'pixels':
            given = dataclasses.replace(plan, image_size=value)
        count = value if quantity == 'devices' else None
        try:
            images = images_of(given, common, canvas=canvas)
            points.append(measure(given, common, images, effort, devices=count))
        except (UserError, MemoryError, jax.errors.JaxRuntimeError) as error:
            reason = str(error).partition('\n')[0] or 'out of memory'
            points.append({'failed': reason})
    told = list(zip(values, points, strict=True))
    measured = [(v, p['step_s']['median']) for v, p in told if 'failed' not in p]
    if not measured:
        reasons = '\n'.join(f'{quantity} {v}: {p["failed"]}' for v, p in told)
        raise UserError(f'--sweep={quantity}: none can be measured.\n{reasons}')
    growth = None
    if len({value for value, _ in measured}) > 1:
        sizes, seconds = np.log(measured).T
        growth = float(np.polyfit(sizes, seconds, 1)[0])
    return {'quantity': quantity, 'values': values, 'points': points, 'growth': growth}


def _usual_values(quantity: str, plan: PretrainPlan) -> list[int]:
    if quantity == 'devices':
        count = jax.device_count()
        return [n for n in (2**i for i in range(count)) if n <= count]
    own = plan.batch_size if quantity == 'batch' else plan.image_size
    return [own // 4, own // 2, own, 2 * own]
