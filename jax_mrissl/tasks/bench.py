"""How fast pretraining is: the whole of it, its parts, its input."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import jax_mrissl
from jax_mrissl.core.memory import peak_resident_bytes, restart_peak
from jax_mrissl.data.pipeline import (
    PREFETCHED,
    Placement,
    Shard,
    choose_placement,
    open_input,
)
from jax_mrissl.data.prepared import PreparedSet
from jax_mrissl.tasks.from_config import DTYPES, Common, Json, PretrainPlan
from jax_mrissl.tasks.parts import STEP_PARTS, part_runs
from jax_mrissl.tasks.pretrain import Training, device_in_words, set_up
from jax_mrissl.tasks.program_run import ProgramRun
from jax_mrissl.tasks.programs import training_program
from jax_mrissl.tasks.stopwatch import Spread, spread
from jax_mrissl.train.parallel import Parallel, choose_parallel

# A part that is shorter is run several times at a time: clocks and calls cost.
_LEAST_S = 0.02
# Sides of the matrices whose product is the peak; the fastest counts.
_LONGEST_S = 1.0  # of a product; the next size takes eight times as long
_SIDES = (512, 1024, 2048, 4096, 8192)


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        blocks: how often everything is measured, in turn.
        block_s: the least seconds of a block of steps.
        placements: where the images are held, one measurement each; (): only where
            `main` would hold them.
        parts: whether the parts of a step are measured alone.
    """

    blocks: int = 9
    block_s: float = 1.0
    placements: tuple[Placement, ...] = ()
    parts: bool = True


def measure(
    plan: PretrainPlan,
    common: Common,
    prepared: PreparedSet,
    effort: Effort,
    *,
    devices: int | None = None,
) -> Json:
    """Measures pretraining as `main` runs it.

    Args:
        plan, common: the declaration.
        prepared: the images.
        effort: how long to measure.
        devices: how many of them share the batch; None: all.

    Returns: JSON facts; seconds, bytes and operations are of one step of all devices.
    """
    training = set_up(plan, common, prepared)
    plan = training.plan
    if devices is not None:
        parallel = choose_parallel(
            common.parallel, plan.batch_size, plan.chunks, devices=devices
        )
        training = dataclasses.replace(training, parallel=parallel)
    restart_peak()
    chosen = choose_placement(plan.data.placement, prepared)
    placements = tuple(dict.fromkeys((chosen, *effort.placements)))
    bench = _Bench(training, common, prepared, placements)
    found = bench.run(effort)
    memory = _memory(bench.main)  # before the parts, which hold more
    parts: Json = {}
    parts_operations: Json = {}
    if effort.parts and plan.chunks == 1:
        parts, parts_operations = bench.parts(effort)
    peak = _peak_of_product(training.parallel, common.dtype, effort.blocks)
    step_s = found[chosen]['step_s']
    operations = _operations(bench.main.executable, training.parallel)
    return {
        'method': plan.method['name'],
        'encoder': common.encoder['name'],
        'pixels': plan.image_size,
        'batch': plan.batch_size,
        'views': len(plan.views),
        'canvas': prepared.image_shape[0],
        'channels': prepared.image_shape[2],
        'dataset': prepared.name,
        'images': len(prepared),
        'dtype': common.dtype,
        'device': device_in_words(),
        'devices': training.parallel.device_count,
        'parallel': common.parallel,
        'chunks': plan.chunks,
        'remat': common.remat,
        'versions': {
            'jax_mrissl': jax_mrissl.__version__,
            'jax': jax.__version__,
            'flax': flax.__version__,
        },
        'placement': chosen,
        'steps_per_block': bench.steps,
        'trace_s': bench.main.trace_s,
        'compile_s': bench.main.compile_s,
        'step_s': step_s,
        'images_per_s': found[chosen]['images_per_s'],
        'inputs': found,
        'parts_s': parts,
        'parts_flops': parts_operations,
        'rest_s': _rest(found[chosen]['resident_step_s'], parts),
        'flops': operations,
        'product_flops_per_s': peak,
        'share_of_product': _share(operations, step_s, peak),
        'memory': memory,
    }


def running(
    plan: PretrainPlan, common: Common, prepared: PreparedSet, placement: Placement
) -> Callable[[int], float]:
    """Starts pretraining as `main` runs it, for a benchmark that steers it.

    Returns: a function that trains so many more steps and waits for the last.
    """
    bench = _Bench(set_up(plan, common, prepared), common, prepared, (placement,))
    return bench.run_steps


class _Bench:
    """A training program for each way in which images come, run in blocks."""

    def __init__(
        self,
        training: Training,
        common: Common,
        prepared: PreparedSet,
        placements: Sequence[Placement],
    ):
        self._training = training
        self._key = jax.random.key(common.seed)
        self._state = training.initial(prepared, self._key)
        self._inputs: dict[str, _Input] = {}
        self.steps = 1
        parallel = training.parallel
        runs: dict[bool, ProgramRun] = {}
        for placement in placements:
            source, feeds = open_input(
                prepared,
                placement,
                batch_size=training.plan.batch_size,
                steps_per_epoch=training.steps_per_epoch,
                seed=common.seed,
                first_step=0,
                shard=Shard.own(),
                partners=training.plan.positives == 'subject',
            )
            given = next(feeds)
            held = parallel.place_feed(given)
            # What comes as a batch is one program, wherever it comes from.
            on_device = placement == 'device'
            if on_device not in runs:
                program = training_program(
                    training.objective,
                    training.optimizer,
                    parallel,
                    chunks=training.plan.chunks,
                )
                runs[on_device] = ProgramRun(
                    program, self._state, source, self._key, held, parallel
                )
            self._inputs[placement] = _Input(
                runs[on_device],
                map(parallel.place_feed, feeds),
                held,
                0 if on_device else PREFETCHED,
            )
            if placement == placements[0]:
                self._source, self._given = source, given
        self.main = self._inputs[placements[0]].run

    def run_steps(self, steps: int) -> float:
        """Trains some steps of the first way; gives seconds per step."""
        way = next(iter(self._inputs.values()))
        return way.run.seconds(way.feeds, steps)

    def run(self, effort: Effort) -> Json:
        """Measures blocks of steps for each way in which images come."""
        for way in self._inputs.values():
            way.run.seconds(way.feeds, 1)
        first = next(iter(self._inputs.values()))
        self.steps = max(1, math.ceil(effort.block_s / first.seconds(1)))
        real: dict[str, list[float]] = {name: [] for name in self._inputs}
        held: dict[str, list[float]] = {name: [] for name in self._inputs}
        for _ in range(effort.blocks):
            for name, way in self._inputs.items():
                real[name].append(way.seconds(self.steps))
                held[name].append(way.seconds_of_one_feed(self.steps))
        batch = self._training.plan.batch_size
        return {
            name: {
                'step_s': _json(spread(real[name])),
                'images_per_s': _json(spread([batch / s for s in real[name]])),
                'resident_step_s': _json(spread(held[name])),
                'input_wait': _json(
                    spread(
                        [1 - h / r for h, r in zip(held[name], real[name], strict=True)]
                    )
                ),
            }
            for name in self._inputs
        }

    def parts(self, effort: Effort) -> tuple[Json, Json]:
        """Measures the parts of a step, in turn; gives seconds and operations."""
        runs = part_runs(
            self._training, self._state, self._source, self._given, self._key
        )
        timers = {
            name: _calibrated(run, feed, _LEAST_S) for name, (run, feed) in runs.items()
        }
        found: dict[str, list[float]] = {name: [] for name in timers}
        for _ in range(effort.blocks):
            for name, timer in timers.items():
                found[name].append(timer())
        operations = {
            name: _operations(run.executable, self._training.parallel)
            for name, (run, _) in runs.items()
        }
        seconds = {name: _json(spread(values)) for name, values in found.items()}
        return seconds, operations


@dataclasses.dataclass(frozen=True)
class _Input:
    """A program, and the feeds of one way in which images come.

    Attributes:
        run: the program.
        feeds: on the devices, without end.
        held: one of them.
        ahead: how many feeds threads may have made while nobody asked for one.
    """

    run: ProgramRun
    feeds: Iterator[Any]
    held: Any
    ahead: int

    def seconds(self, steps: int) -> float:
        """Gives seconds per step as training has them, input and all."""
        if self.ahead:
            # What was made in the meantime would hide that the input is too slow.
            for _ in range(self.ahead):
                next(self.feeds)
            self.run.seconds(self.feeds, 1)
        return self.run.seconds(self.feeds, steps)

    def seconds_of_one_feed(self, steps: int) -> float:
        """Gives seconds per step where the input is there already."""
        return self.run.seconds(itertools.repeat(self.held), steps)


def _calibrated(run: ProgramRun, feed: Any, least_s: float) -> Callable[[], float]:
    """Makes a timer of a program that runs it for `least_s` at a time."""
    feeds = itertools.repeat(feed)
    run.seconds(feeds, 1)
    times = max(1, math.ceil(least_s / run.seconds(feeds, 1)))
    return lambda: run.seconds(feeds, times)


def _rest(step_s: Json, parts: Json) -> float | None:
    """Gives what of a step its parts do not account for."""
    if not parts:
        return None
    return step_s['median'] - sum(parts[name]['median'] for name in STEP_PARTS)


def _operations(executable: Any, parallel: Parallel) -> float | None:
    """Counts the floating point operations of a step as XLA does; None: it does not."""
    found = executable.cost_analysis()
    analysis = found[0] if isinstance(found, list) else found or {}
    count = analysis.get('flops', 0)
    # The analysis is of the program of one device.
    return float(count) * parallel.device_count if count > 0 else None


def _peak_of_product(parallel: Parallel, dtype: str, rounds: int) -> float:
    """Measures products of square matrices, one on each device; operations a second.

    Returns: the median over the rounds of the size that is fastest.
    """

    def product(_: Any, source: Any, feed: Any, key: Any, *, axis: Any) -> Any:
        del key, axis
        return (), (feed @ source).sum()

    devices = parallel.device_count
    best = 0.0
    for side in _SIDES:
        right = jnp.ones((side, side), DTYPES[dtype])
        left = np.ones((devices * side, side), right.dtype)
        feed = parallel.place_feed(left)
        run = ProgramRun(
            parallel.compile(product),
            (),
            right,
            jax.random.key(0),
            feed,
            parallel,
        )
        timer = _calibrated(run, feed, _LEAST_S)
        seconds = statistics.median(timer() for _ in range(rounds))
        rate = 2 * devices * side**3 / seconds
        if rate < best or 8 * seconds > _LONGEST_S:
            return max(rate, best)
        best = rate
    return best


def _share(operations: float | None, step_s: Json, peak: float) -> float | None:
    return operations / step_s['median'] / peak if operations else None


def _memory(run: ProgramRun) -> Json:
    """Gives the peak of the fullest device, or else of this process."""
    plan = run.executable.memory_analysis()
    planned = getattr(plan, 'temp_size_in_bytes', None)
    peaks = [
        (device.memory_stats() or {}).get('peak_bytes_in_use')
        for device in jax.local_devices()
    ]
    known = [peak for peak in peaks if peak]
    return {
        'peak_bytes': max(known) if known else peak_resident_bytes(),
        'of': 'device' if known else 'process',
        'temporaries_bytes': planned,
    }


def _json(value: Spread) -> Json:
    return {**dataclasses.asdict(value), 'visible_change': value.visible_change}
