import dataclasses
import json
import time

import jax
import numpy as np
import pytest
from conftest import run_module, smoke_config

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.random_images import random_images
from jax_mrissl.report.bench_table import bench_table, sweep_table
from jax_mrissl.tasks import bench, bench_sweep
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.parts import STEP_PARTS
from jax_mrissl.tasks.pretrain import set_up

QUICK = bench.Effort(blocks=2, block_s=0.0, parts=False)


def smoke(name='barlow_brain', **changes):
    config = smoke_config('nowhere', name, pretrain__batch_size=8, **changes)
    experiment = read_experiment(config)
    return experiment.chain[-1], experiment.common


def images(count=32):
    return random_images('random', count, canvas=24, channels=1)


@pytest.fixture(scope='module')
def facts():
    plan, common = smoke(pretrain__data__placement='stream')
    effort = bench.Effort(blocks=2, block_s=0.0, placements=('host',), parts=True)
    return json.loads(json.dumps(bench.measure(plan, common, images(), effort)))


@pytest.mark.slow
def test_all_is_measured_and_can_be_told(facts):
    assert (facts['placement'], *facts['inputs']) == ('stream', 'stream', 'host')
    for of in facts['inputs'].values():
        rate, step = of['images_per_s'], of['step_s']
        assert rate['low'] <= rate['median'] <= rate['high']
        assert rate['high'] == pytest.approx(8 / step['low'])
        assert of['input_wait']['median'] < 1
    assert facts['compile_s'] > 0 and facts['trace_s'] > 0
    assert facts['memory']['peak_bytes'] > facts['memory']['temporaries_bytes'] > 0
    share = facts['flops'] / facts['step_s']['median'] / facts['product_flops_per_s']
    assert facts['share_of_product'] == pytest.approx(share)
    text = bench_table(facts)
    for words in ('barlow, resnet_tiny, 16 pixels, batch 8', 'stream', 'optimiser'):
        assert words in text


def check_parts(facts):
    seconds, operations = facts['parts_s'], facts['parts_flops']
    together = sum(seconds[name]['median'] for name in STEP_PARTS) + facts['rest_s']
    step = facts['inputs'][facts['placement']]['resident_step_s']['median']
    assert together == pytest.approx(step)
    # Norms and the search for NaNs are the whole's alone, sums the parts'.
    total = sum(operations[name] for name in STEP_PARTS)
    assert total == pytest.approx(facts['flops'], rel=0.1)
    assert operations['encoder'] < operations['networks'] < total
    assert 2 < operations['networks'] / operations['networks_forward'] < 4


@pytest.mark.slow
def test_parts_add_up_to_a_step(facts):
    check_parts(facts)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['simclr_brain', 'swav_brain'])
def test_parts_of_other_methods_add_up(name):
    plan, common = smoke(name)
    check_parts(bench.measure(plan, common, images(), bench.Effort(2, 0.0)))


@pytest.mark.slow
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
    waits = bench.measure(plan, common, images(), QUICK)['inputs']['device']
    assert waits['input_wait']['median'] > 0.5


@pytest.mark.slow
def test_a_sweep_says_how_the_cost_grows(facts, monkeypatch):
    plan, common = smoke()
    seconds = {4: 1.0, 8: 4.0, 16: 16.0}

    def measured(plan, common, prepared, effort, *, devices):
        assert devices is None
        step = {'median': seconds[plan.batch_size], 'visible_change': 0.1}
        return {**facts, 'batch': plan.batch_size, 'step_s': step}

    monkeypatch.setattr(bench_sweep, 'measure', measured)
    found = bench_sweep.sweep(plan, common, QUICK, 'batch', list(seconds), canvas=24)
    assert found['growth'] == pytest.approx(2.0)
    assert 'batch to the power 2.00' in sweep_table(found)
    with pytest.raises(UserError, match='99 are asked for'):
        bench_sweep.sweep(plan, common, QUICK, 'devices', [99], canvas=24)
    with pytest.raises(UserError, match='Did you mean'):
        bench_sweep.sweep(plan, common, QUICK, 'pixel', [], canvas=24)


def measured_in_words(plan, common, prepared, effort, *, devices):
    """Sets up as `measure` does; gives what a table of a sweep tells, made up."""
    set_up(plan, common, prepared)
    if plan.batch_size == 4:
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory.\nMuch.')
    one = dict.fromkeys(('median', 'low', 'high', 'visible_change'), 0.1)
    return {
        **dict(method='swav', encoder='tiny', dtype='float32', device='cpu'),
        **dict(pixels=16, batch=plan.batch_size, devices=1, compile_s=1.0),
        **dict(dataset='random', images=40, canvas=24, channels=1),
        **dict(step_s=one, images_per_s=one, memory={'peak_bytes': 1e9}),
    }


def test_a_sweep_lists_what_it_cannot_measure(monkeypatch):
    monkeypatch.setattr(bench_sweep, 'measure', measured_in_words)
    monkeypatch.setattr(bench_sweep, 'images_of', lambda *_, **__: images(40))
    plan, common = smoke('swav_brain')  # its queue holds 16

    def swept(*values):
        found = bench_sweep.sweep(plan, common, QUICK, 'batch', values, canvas=24)
        return json.loads(json.dumps(found))

    found = swept(4, 8, 12, 16, 64)
    assert found['values'] == [4, 8, 12, 16, 64]
    reasons = [point.get('failed') for point in found['points']]
    assert reasons[0] == 'RESOURCE_EXHAUSTED: Out of memory.'
    assert 'no multiple of the batch of 12' in reasons[2]
    assert 'only 40 images' in reasons[4]
    assert reasons[1] is reasons[3] is None and found['growth'] is not None
    text = sweep_table(found)
    assert 'random, 40 of 24 pixels' in text and 'RESOURCE_EXHAUSTED' in text
    assert all(len(line) <= 88 for line in text.splitlines())
    for value in found['values']:
        assert f'\n  {value:8d} ' in text

    [first, second] = swept(64, 8)['points']  # the first one fails
    assert 'failed' in first and second['batch'] == 8
    assert swept(64, 8)['growth'] is None
    with pytest.raises(UserError, match=r'(?s)batch 12: .*queue.*batch 64: .*only 40'):
        swept(12, 64)


@pytest.mark.slow
def test_devices_share_a_batch():
    plan, common = smoke()
    facts = bench.measure(plan, common, images(), QUICK, devices=2)
    assert facts['devices'] == 2
    with pytest.raises(UserError, match='over 3'):
        bench.measure(plan, common, images(), QUICK, devices=3)


def test_random_images_stand_in_for_a_set_that_is_not_there(tmp_path):
    plan, common = smoke()
    common = dataclasses.replace(common, data_dir=str(tmp_path))
    prepared = bench_sweep.images_of(plan, common, canvas=20)
    assert prepared.name == 'random'
    some = prepared.images(np.arange(50))
    assert some.shape == (50, 20, 20, 1)
    assert len({image.tobytes() for image in some}) == 50


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
