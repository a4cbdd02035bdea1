import dataclasses
import itertools
import json
import time

import numpy as np
import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.random_images import random_images
from jax_mrissl.report.bench_table import bench_table, sweep_table
from jax_mrissl.tasks import bench
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.parts import STEP_PARTS, part_runs
from jax_mrissl.tasks.pretrain import set_up
from tests.conftest import run_module, smoke_config

QUICK = bench.Effort(blocks=2, block_s=0.0, parts=False)


def smoke(**changes):
    config = smoke_config('nowhere', pretrain__batch_size=8, **changes)
    experiment = read_experiment(config)
    return experiment.chain[-1], experiment.common


def images(count=32):
    return random_images('random', count, canvas=24, channels=1)


def test_all_is_measured_and_can_be_told():
    plan, common = smoke()
    effort = bench.Effort(
        blocks=2, block_s=0.0, placements=('device', 'host', 'stream'), parts=True
    )
    facts = json.loads(json.dumps(bench.measure(plan, common, images(), effort)))
    assert facts['placement'] == 'device'
    assert list(facts['inputs']) == ['device', 'host', 'stream']
    for of in facts['inputs'].values():
        rate, step = of['images_per_s'], of['step_s']
        assert rate['low'] <= rate['median'] <= rate['high']
        assert rate['median'] == pytest.approx(
            8 * np.mean([1 / step['low'], 1 / step['high']])
        )
        assert of['input_wait']['median'] < 1
    parts = facts['parts_s']
    together = sum(parts[name]['median'] for name in STEP_PARTS) + facts['rest_s']
    resident = facts['inputs']['device']['resident_step_s']['median']
    assert together == pytest.approx(resident)
    assert facts['compile_s'] > 0 and facts['trace_s'] > 0
    assert facts['memory']['peak_bytes'] > facts['memory']['temporaries_bytes'] > 0
    share = facts['flops'] / facts['step_s']['median'] / facts['product_flops_per_s']
    assert facts['share_of_product'] == pytest.approx(share)
    text = bench_table(facts)
    for words in ('barlow, resnet_tiny, 16 pixels, batch 8', 'stream', 'optimiser'):
        assert words in text


@pytest.mark.parametrize('name', ['barlow_brain', 'swav_brain'])
def test_parts_do_the_work_of_a_step(name):
    """XLA counts as many operations in the parts as in the whole step."""
    experiment = read_experiment(smoke_config('nowhere', name))
    plan, common = experiment.chain[-1], experiment.common
    training = set_up(plan, common, images())
    whole = bench._Bench(training, common, images(), ('device',))
    runs = part_runs(training, whole._state, whole._source, whole._given, whole._key)

    def operations(run):
        return run.executable.cost_analysis()['flops']

    parts = {part: operations(run) for part, (run, _) in runs.items()}
    total = sum(parts[part] for part in STEP_PARTS)
    # Norms and the search for NaNs are the whole's alone, sums the parts'.
    assert total == pytest.approx(operations(whole.main), rel=0.1)
    assert parts['encoder'] < parts['networks'] < total
    assert 2 < parts['networks'] / parts['networks_forward'] < 4


def test_a_slow_input_is_seen_as_waiting(monkeypatch):
    really = bench.open_input

    def slow(*args, **kwargs):
        source, feeds = really(*args, **kwargs)

        def late():
            yield next(feeds)  # the one that is held
            for feed in feeds:
                time.sleep(1.0)
                yield feed

        return source, late()

    monkeypatch.setattr(bench, 'open_input', slow)
    plan, common = smoke()
    facts = bench.measure(plan, common, images(), QUICK)
    waits = facts['inputs']['device']['input_wait']
    assert waits['median'] > 0.5


def test_a_sweep_says_how_the_cost_grows(monkeypatch):
    plan, common = smoke()
    seconds = {4: 1.0, 8: 4.0, 16: 16.0}

    def measured(plan, common, prepared, effort, *, devices):
        assert devices is None
        median = seconds[plan.batch_size]
        step = {'median': median, 'visible_change': 0.1}
        return {**facts, 'batch': plan.batch_size, 'step_s': step}

    facts = bench.measure(plan, common, images(), QUICK)
    monkeypatch.setattr(bench, 'measure', measured)
    found = bench.sweep(plan, common, QUICK, 'batch', list(seconds), canvas=24)
    assert found['growth'] == pytest.approx(2.0)
    assert 'batch to the power 2.00' in sweep_table(found)
    with pytest.raises(UserError, match='99 are asked for'):
        bench.sweep(plan, common, QUICK, 'devices', [99], canvas=24)
    with pytest.raises(UserError, match='Did you mean'):
        bench.sweep(plan, common, QUICK, 'pixel', [], canvas=24)


def test_devices_share_a_batch():
    plan, common = smoke()
    facts = bench.measure(plan, common, images(), QUICK, devices=2)
    assert facts['devices'] == 2
    with pytest.raises(UserError, match='over 3'):
        bench.measure(plan, common, images(), QUICK, devices=3)


def test_random_images_stand_in_for_a_set_that_is_not_there(tmp_path):
    plan, common = smoke()
    common = dataclasses.replace(common, data_dir=str(tmp_path))
    prepared = bench.images_of(plan, common, canvas=20)
    assert prepared.name == 'random'
    assert prepared.all_images().shape == (len(prepared), 20, 20, 1)
    distinct = {image.tobytes() for image in prepared.all_images()[:50]}
    assert len(distinct) == 50


def test_a_held_feed_is_taken_as_often_as_asked():
    """Repeating one feed leaves the others where they are."""
    plan, common = smoke()
    training = set_up(plan, common, images())
    whole = bench._Bench(training, common, images(), ('device',))
    [way] = whole._inputs.values()
    way.seconds_of_one_feed(3)
    assert int(way.run.state.step) == 3
    rows = [np.asarray(feed.row) for feed in itertools.islice(way.feeds, 3)]
    assert len(np.unique(rows)) == 24  # the rest of the first epoch, all apart


@pytest.mark.slow
def test_the_command_measures_several_methods(tmp_path):
    done = run_module(
        'bench',
        '--config=configs/barlow_brain.py:smoke',
        '--also=configs/simclr_brain.py:smoke',
        '--config.pretrain.batch_size=8',
        f'--config.data_dir={tmp_path}',
        '--blocks=1',
        '--seconds=0',
        '--noparts',
        '--canvas=24',
        f'--json={tmp_path}/bench.json',
    )
    assert done.returncode == 0, done.stderr
    assert 'RANDOM images of 24 pixels' in done.stderr
    found = json.loads((tmp_path / 'bench.json').read_text())
    assert [(f['method'], f['batch']) for f in found] == [('barlow', 8), ('simclr', 8)]
