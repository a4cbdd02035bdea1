"""A study runs each stage once, whoever starts it; its tables say what came of it."""

import csv
import json
import shutil
import signal
import time

import pytest
from conftest import CLASSES, stages, start_worker

from jax_mrissl.configs import study
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.spec import PathPattern
from jax_mrissl.stages import study as runner
from jax_mrissl.stages.forecast import forecast_text
from jax_mrissl.stages.store import Store
from jax_mrissl.stages.study import Study, run_study


def small(cohort, **changes):
    config = study.get_config('smoke')
    config.data_dir = str(cohort)
    config.report.pictures = False
    config.study.update(
        methods=('barlow',), chains=('brain',), targets=('severity3',), finalists=1
    )
    config.study.update(changes)
    config.finetune.bootstrap_resamples = 50
    return config


@pytest.fixture(scope='module')
def finished(cohort, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('study')
    config = small(cohort)
    return config, workdir, run_study(config, workdir, command='python -m it')


def test_tables_and_page_say_what_was_found(finished):
    _, workdir, text = finished
    assert 'SIMULATED' in text and 'pretrained on  barlow' in text
    rows = list(csv.DictReader((workdir / 'study.csv').open()))
    arms = {(row['method'], row['chain'], row['mode']) for row in rows}
    # The only pretrained arm is the best by validation, so it is finetuned in full.
    assert arms == {
        (method, chain, mode)
        for method, chain in (('', ''), ('barlow', 'brain'))
        for mode in ('linear', 'full')
    }
    told = {
        (row['method'], row['mode'], row['unit'], row['metric']): row for row in rows
    }
    metrics = json.loads(
        (workdir / 'experiments/barlow_brain_severity3_seed0/metrics.json').read_text()
    )
    for row in metrics['results']:
        method = 'barlow' if row['arm'] == 'barlow brain' else ''
        key = (method, row['mode'], row['unit'], 'log_loss')
        if row['role'] == 'arm' and key in told:
            assert float(told[key]['value']) == pytest.approx(
                row['log_loss']['value'], abs=1e-5
            )
    page = (workdir / 'report/index.html').read_text()
    assert 'SIMULATED DATA' in page and 'python -m it' in page
    assert '../experiments/barlow_brain_severity3_seed0/report/index.html' in page
    assert r'\begin{tabular}' in (workdir / 'study.tex').read_text()
    facts = json.loads((workdir / 'study.json').read_text())
    assert facts['failures'] == [] and len(facts['settings'][0]['arms']) == 4


def test_a_second_run_does_nothing(finished):
    config, workdir, text = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
    assert run_study(config, workdir, command='python -m it') == text
    assert {
        p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()
    } == before


def test_a_collapsed_pretraining_is_marked_wherever_its_numbers_stand(
    finished, tmp_path
):
    config, workdir, text = finished
    assert '(collapsed)' not in text
    copy = tmp_path / 'study'
    shutil.copytree(workdir, copy)
    [done] = copy.glob('stages/pretrain-*/done.json')
    facts = json.loads(done.read_text())
    assert facts['collapse'] == []
    facts['collapse'] = ['The loss is that of chance.']
    done.write_text(json.dumps(facts))
    (copy / 'written.json').unlink()
    text = run_study(config, copy)
    # In both modes, and in the note that says what it means.
    assert text.count('(collapsed)') == 3
    rows = list(csv.DictReader((copy / 'study.csv').open()))
    assert {(row['method'], row['collapsed']) for row in rows} == {
        ('', '0'),
        ('barlow', '1'),
    }
    assert '>collapsed</span>' in (copy / 'report/index.html').read_text()


def test_a_forecast_measures_what_is_left_and_writes_nothing(
    finished, cohort, tmp_path
):
    config, workdir, _ = finished
    assert forecast_text(Study(config, workdir)).startswith(
        '4 stages in all; 4 are done, 0 are left.\nIn all about 0 s'
    )
    text = forecast_text(Study(small(cohort, modes=('linear', 'full')), tmp_path))
    assert text.startswith('6 stages in all; 0 are done, 6 are left.')
    assert text.index('Pretraining (barlow on smoke): about') < text.index('Finetuning')
    assert not (tmp_path / 'stages').exists()


def test_what_stands_in_the_place_of_results_is_written_over(finished, tmp_path):
    config, workdir, _ = finished
    copy = tmp_path / 'study'
    shutil.copytree(workdir, copy)
    # As `main` with this workdir does; and what somebody removed.
    page, table = copy / 'report/index.html', copy / 'study.csv'
    own = copy / 'experiments/barlow_brain_severity3_seed0/results.md'
    page.write_text('the page of a run')
    table.unlink()
    own.unlink()
    before = stages(copy)
    run_study(config, copy, command='python -m it')
    for path in (page, table, own):
        assert path.read_text() == (workdir / path.relative_to(copy)).read_text()
    assert stages(copy) == before


def test_a_changed_rate_of_finetuning_repeats_that_alone(finished, cohort, tmp_path):
    _, finished_workdir, _ = finished
    workdir = tmp_path / 'study'
    shutil.copytree(finished_workdir, workdir)
    config = small(cohort)
    config.finetune.full.optimizer.rate_per_256 = 2e-3
    planned = Study(config, workdir)
    # In every cell is only what is as before; the finalists are chosen from it.
    assert planned.counts()[0] == planned.counts()[1]
    planned.do_stages()
    total, done = planned.counts()
    assert total == done
    new = {name for name in stages(workdir) if name.startswith('finetune')}
    assert len(new) == 6  # two linear, two in full, and two in full again


def test_what_fails_is_listed_and_the_rest_goes_on(cohort, tmp_path, monkeypatch):
    config = small(cohort, chains=('brain', 'xray'), final_modes=(), finalists=0)
    config.domains.xray.data.name = 'not_there'
    original = runner.plan_experiment

    def fails(experiment, *arguments, **others):
        planned = original(experiment, *arguments, **others)
        for job in planned.jobs:
            if job.stage.kind == 'pretrain':
                object.__setattr__(job, 'run', refuse)
        return planned

    def refuse(folder):
        raise UserError('the loss is not finite')

    monkeypatch.setattr(runner, 'plan_experiment', fails)
    text = run_study(config, tmp_path)
    assert 'Not done: barlow_brain_severity3_seed0. the loss is not finite' in text
    assert 'Not done: barlow_xray_severity3_seed0. The dataset' in text
    assert 'untrained' in text
    again = Study(config, tmp_path)
    again.do_stages()
    assert again.counts() == (4, 2)
    monkeypatch.undo()
    again = Study(config, tmp_path)
    again.do_stages(retry_failed=True)
    assert again.counts() == (4, 4)


def test_sets_and_kinds_of_tasks_stand_beside_each_other_in_one_matrix(
    cohort, tmp_path
):
    classes = OwnFolder('second', CLASSES, PathPattern(r'(sub-\d+)'))
    labelled = cohort / 'raw' / 'smoke' / 'labelled'
    prepare_dataset('folder', [labelled], cohort, canvas=48, workers=1, own=classes)
    config = small(cohort, targets=('severity3', 'cdr', 'own'), final_modes=())
    config.targets.own = dict(data=dict(name='second', split='all'), task='classes')
    run_study(config, tmp_path)
    facts = json.loads((tmp_path / 'study.json').read_text())
    assert facts['failures'] == []
    assert [one['headline'] for one in facts['settings']] == [
        'log_loss',
        'mae',
        'log_loss',
    ]
    [matrix] = facts['transfer']
    assert 'SIMULATED' in matrix['title']
    assert matrix['head'][1:] == [
        'severity3 (smoke), log loss',
        'cdr (smoke), mean absolute error',
        'own (second), log loss',
    ]
    [row] = matrix['rows']
    assert row[0] == 'barlow on brain'
    for text, setting in zip(row[1:], facts['settings'], strict=True):
        [arm] = [arm for arm in setting['arms'] if arm['method']]
        found = arm['difference']
        assert text == (
            f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'
        )
    for name in ('study.txt', 'study.md', 'study.tex', 'report/index.html'):
        written = (tmp_path / name).read_text().replace('\\', '')  # of Markdown
        assert row[1] in written, name
    rows = list(csv.DictReader((tmp_path / 'study.csv').open()))
    assert {row['dataset'] for row in rows} == {'smoke', 'second'}


def test_baselines_say_of_how_many_labels_they_are(cohort, tmp_path):
    config = small(
        cohort, final_modes=(), methods=(), chains=(), label_fractions=(0.5, 1.0)
    )
    # No network is trained in full here, so its batches are no matter.
    config.finetune.full.batch_size = 4000
    text = run_study(config, tmp_path)
    for written in (text, (tmp_path / 'report/index.html').read_text()):
        about = ' '.join(written.split())
        assert 'severity3, 50 % of the labels, ' in about
    assert 'severity3, 50 % of the labels, class prior: ' in text
    assert 'severity3, class prior: ' in text


@pytest.mark.parametrize(
    ('field', 'value', 'word'),
    [('division', 'image', 'LEAKY'), ('shuffle_labels', True, 'CONTROL')],
)
def test_what_is_no_result_is_marked_in_every_file(
    cohort, tmp_path, field, value, word
):
    config = small(cohort, final_modes=(), methods=(), chains=())
    config.finetune[field] = value
    run_study(config, tmp_path)
    for name in ('study.txt', 'study.md', 'study.tex', 'report/index.html'):
        text = ' '.join((tmp_path / name).read_text().split())
        # In the table's title, and but for LaTeX's tables in a note that explains it.
        assert f', {word}' in text, name
        assert f'{word}: ' in text or name == 'study.tex', name
    facts = json.loads((tmp_path / 'study.json').read_text())
    [setting] = facts['settings']
    assert [setting['leaky'], setting['shuffled']] == [word == 'LEAKY', word != 'LEAKY']
    assert any(word in note for note in facts['notes'])
    rows = list(csv.DictReader((tmp_path / 'study.csv').open()))
    found = {(row['leaky'], row['shuffled_labels']) for row in rows}
    assert found == {('1', '0') if word == 'LEAKY' else ('0', '1')}


def test_random_weights_are_the_reference_beside_those_that_all_started_from(
    finished, cohort, tmp_path
):
    _, workdir, _ = finished
    config = small(cohort, final_modes=(), methods=(), chains=())
    [stage] = workdir.glob('stages/pretrain-*')
    config.init_from = str(stage)
    text = run_study(config, tmp_path)
    assert '\ninit_from: ' in text
    told = {}
    for folder in (workdir, tmp_path):
        for row in csv.DictReader((folder / 'study.csv').open()):
            if (row['mode'], row['metric']) == ('linear', 'log_loss'):
                told[folder, row['method'], row['unit']] = row
    for unit in ('subject', 'slice'):
        before, now = (told[w, '', unit] for w in (workdir, tmp_path))
        assert now['value'] == before['value'] and now['seeds'] == '1'
        # What started and is not pretrained further is what was pretrained before.
        begun, trained = (
            told[tmp_path, 'init_from', unit],
            told[workdir, 'barlow', unit],
        )
        assert begun['value'] == trained['value'] and begun['seeds'] == '1'
        assert begun['difference'] == trained['difference']
    names = (tmp_path / 'experiments/severity3_seed0/results.md').read_text()
    assert 'init\\_from' in names and 'untrained' in names


def test_only_arms_of_the_same_seeds_are_compared(finished, cohort, tmp_path):
    _, workdir, _ = finished
    copy = tmp_path / 'study'
    shutil.copytree(workdir, copy)
    config = small(cohort, seeds=(0, 1), final_modes=(), finalists=0)

    def arms():
        facts = json.loads((copy / 'study.json').read_text())
        return {arm['method']: arm for arm in facts['settings'][0]['arms']}

    text = run_study(config, copy)
    assert 'of 2 seeds)' not in text and 'is in study.csv' in text
    assert arms()['barlow']['difference'] and arms()['barlow']['spread']
    planned = Study(config, copy)
    for cell, one in zip(planned.cells, planned.planned, strict=True):
        # As many of each, and not the same.
        if (cell.encoder.method, cell.seed) not in (('barlow', 1), ('', 0)):
            continue
        [arm] = [a for a in one.arms if a.origin.is_any == bool(cell.encoder.method)]
        folder = Store(copy / 'stages').folder(arm.stage)
        (folder / 'done.json').unlink()
        (folder / 'failed.json').write_text('{"error": "the disk was full"}')
    text = run_study(config, copy)
    assert {name: arm['seeds'] for name, arm in arms().items()} == {'': 1, 'barlow': 1}
    assert all(arm['difference'] is None for arm in arms().values())
    [row] = [line for line in text.splitlines() if line.startswith('brain  ')]
    assert row.count('(1 of 2 seeds)') == 2
    page = (copy / 'report/index.html').read_text()
    assert page.count('>1 of 2<') == 2
    rows = list(csv.DictReader((copy / 'study.csv').open()))
    assert {(row['seeds'], row['seeds_asked']) for row in rows} == {('1', '2')}


def test_finalists_are_chosen_among_those_that_have_every_result(
    cohort, tmp_path, monkeypatch
):
    config = small(cohort, methods=('barlow', 'simclr'), label_fractions=(0.5, 1.0))
    planned = Study(config, tmp_path)
    # Barlow Twins is worse; what is harder for all has failed.
    losses = {('barlow', 1.0): 0.8, ('simclr', 1.0): 0.7, ('simclr', 0.5): 1.0}
    for cell, one in zip(planned.cells, planned.planned, strict=True):
        key = cell.encoder.method, cell.setting.label_fraction
        if key in losses:
            told = {'folds': [{'validation_loss': losses[key]}]}
            Store(tmp_path / 'stages').mark_done(one.arms[0].stage, told)
    monkeypatch.setattr(runner, 'do_jobs', lambda *_, **__: [])
    planned.do_stages()
    assert {
        cell.encoder.method
        for cell in planned.cells
        if 'full' in cell.experiment.finetune.modes
    } == {'', 'simclr'}
    assert planned._content('').unranked == ('barlow brain',)


def test_a_finalists_stage_is_tried_again_once(finished, tmp_path, monkeypatch):
    config, workdir, _ = finished
    copy = tmp_path / 'study'
    shutil.copytree(workdir, copy)
    [done] = [
        path
        for path in copy.glob('stages/finetune-*/done.json')
        if (told := json.loads((path.parent / 'stage.json').read_text()))['parents']
        and told['params']['mode'] == 'full'
    ]
    facts = done.read_text()
    done.unlink()
    failed = done.with_name('failed.json')
    failed.write_text('{"error": "out of memory"}')
    tried = []
    whole = runner.plan_experiment

    def stubbed(*arguments, **others):
        planned = whole(*arguments, **others)
        for job in planned.jobs:
            if job.stage.address.startswith(done.parent.name.partition('-')[2]):
                object.__setattr__(job, 'run', fails if fails_now else works)
        return planned

    def fails(folder):
        tried.append(folder)
        raise UserError('out of memory, again')

    def works(folder):
        tried.append(folder)
        return json.loads(facts)

    monkeypatch.setattr(runner, 'plan_experiment', stubbed)
    fails_now = True
    assert 'out of memory' in run_study(config, copy) and not tried
    text = run_study(config, copy, retry_failed=True)
    assert len(tried) == 1 and 'out of memory, again' in text
    fails_now = False
    assert 'Not done' not in run_study(config, copy, retry_failed=True)
    assert len(tried) == 2 and not failed.exists()


def test_a_study_that_cannot_run_at_all_says_why(tmp_path):
    config = small(tmp_path)
    config.targets.severity3.data.name = 'not_there'
    with pytest.raises(UserError, match="'not_there' is not prepared"):
        Study(config, tmp_path)


@pytest.mark.slow
def test_four_workers_of_whom_two_are_killed_do_each_stage_once(cohort, tmp_path):
    def start(workdir):
        return start_worker(
            'study',
            '--config=configs/study.py:smoke',
            f'--config.data_dir={cohort}',
            '--config.report.pictures=false',
            "--config.study.methods=('barlow', 'simclr')",
            "--config.study.chains=('natural', 'brain', 'natural>brain')",
            "--config.study.targets=('severity3',)",
            f'--workdir={workdir}',
        )

    alone, shared = tmp_path / 'alone', tmp_path / 'shared'
    one = start(alone)
    _, err = one.communicate()
    assert one.returncode == 0, err
    workers = [start(shared) for _ in range(4)]
    deadline = time.monotonic() + 600
    while len(list(shared.glob('stages/*/claim-*'))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in workers[:2]:
        worker.send_signal(signal.SIGKILL)
    logs = []
    for worker in workers:
        _, err = worker.communicate(timeout=1200)
        logs.append(err)
    assert [worker.returncode for worker in workers[2:]] == [0, 0], logs[2:]
    # The command, which names the folder, stands in the page alone.
    for name in ('study.txt', 'study.md', 'study.tex'):
        assert (shared / name).read_text() == (alone / name).read_text()
    assert set(stages(shared)) == set(stages(alone))
    finished = [
        line for log in logs for line in log.splitlines() if ': done, in' in line
    ]
    assert len(finished) == len(stages(shared))


@pytest.mark.slow
def test_the_whole_grid_at_smoke_scale(cohort, tmp_path):
    config = small(cohort)
    whole = study.get_config('smoke').study
    config.study.update(
        methods=whole.methods, chains=whole.chains, targets=whole.targets
    )
    text = run_study(config, tmp_path)
    rows = list(csv.DictReader((tmp_path / 'study.csv').open()))
    found = {
        (r['target'], r['method'], r['chain']) for r in rows if r['mode'] == 'linear'
    }
    assert len(found) == 2 * (3 * 7 + 1)
    assert '(report: 0.993)' not in text  # that is beside real images alone
