"""Real processes, on one machine: the same numbers, and an end when one is lost."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import member
import numpy as np
import pytest
from test_parallel import assert_close

from jax_mrissl.core import process_flags
from jax_mrissl.core.preemption import START_AGAIN
from jax_mrissl.train.parallel import MeshParallel

SLOW = pytest.mark.slow
METHODS = ['barlow', 'supervised', 'simclr', 'swav', 'vicreg']
# A process that is lost is found within this, and the time between two signs of life;
# on a machine that is busy with tests it must not be too short.
PEER_TIMEOUT_S = 15


class Members:
    """A program in several processes, each with one device or more.

    Args:
        program: behind `python`.
        count: how many processes; one is started as ever.
        flags: of the process `of`; None: of all.
        devices: of each.
        x64: whether in double precision.
    """

    def __init__(self, program, count, *flags, of=None, devices=1, x64=True):
        with socket.socket() as free:
            free.bind(('', 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            'JAX_ENABLE_X64': str(int(x64)),
            'JAX_NUM_CPU_DEVICES': str(devices),
            'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
        }
        together = (
            f'--coordinator=127.0.0.1:{port}',
            f'--num_processes={count}',
            f'--peer_timeout={PEER_TIMEOUT_S}',
        )
        self.processes = []
        for index in range(count):
            own = (*together, f'--process_id={index}') if count > 1 else ()
            special = flags if of in (None, index) else ()
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *own, *special],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    text=True,
                )
            )

    def ended(self, timeout=900):
        """Waits for all; gives exit codes, and what they said on stderr."""
        told = [process.communicate(timeout=timeout) for process in self.processes]
        self.printed, said = zip(*told, strict=True)
        return [process.returncode for process in self.processes], said

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def training(folder):
    return [member.__file__, f'--folder={folder}']


def run(folder, count, *flags, **options):
    with Members(training(folder), count, *flags, **options) as members:
        codes, said = members.ended()
    assert codes == [0] * count, '\n'.join(said)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """Gives the folder of the same training in this process, on one device."""

    @functools.cache
    def trained(method):
        folder = tmp_path_factory.mktemp(method)
        with jax.enable_x64(True):
            member.train(folder, method, one_device())
        return folder

    return trained


def one_device():
    return MeshParallel(tuple(jax.devices()[:1]))


def lines(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').open()]


def arrays(folder, part):
    with np.load(folder / 'result.npz') as stored:
        return {name: stored[name] for name in stored.files if f"['{part}']" in name}


def assert_same_training(folder, reference):
    """By the rule of test_parallel: rounding grows from step to step."""
    losses, wanted = ([row['loss'] for row in lines(f)] for f in (folder, reference))
    assert len(losses) == len(wanted) == member.STEPS / member.RHYTHM.log_every
    np.testing.assert_allclose(losses, wanted, rtol=1e-7)
    for part, tolerance in (
        ('gradient', 1e-9),
        ('params', 1e-7),
        ('model_state', 1e-7),
    ):
        assert_close(arrays(folder, part), arrays(reference, part), tolerance)


@pytest.mark.parametrize(
    ('method', 'count', 'devices'),
    [
        ('barlow', 2, 1),
        *(
            pytest.param(method, count, 1, marks=SLOW)
            for method in METHODS
            for count in (2, 4)
            if (method, count) != ('barlow', 2)
        ),
        pytest.param('swav', 2, 2, marks=SLOW),
    ],
)
def test_numbers_are_those_of_one_process(alone, tmp_path, method, count, devices):
    run(tmp_path, count, f'--method={method}', devices=devices)
    assert_same_training(tmp_path, alone(method))
    assert (tmp_path / 'who.txt').read_text() == '0'


@pytest.mark.slow
def test_pmap_is_for_one_process(tmp_path):
    with Members(training(tmp_path), 2, '--kind=pmap') as members:
        codes, said = members.ended()
    assert codes == [1, 1]
    assert all("Set it to 'mesh'." in words for words in said)


def test_after_sigterm_it_goes_on_bit_for_bit(alone, float64, tmp_path):
    with Members(training(tmp_path), 1, '--signal=SIGTERM') as members:
        [code], [said] = members.ended()
    assert code == START_AGAIN, said
    assert 'Stopped by SIGTERM. The same command goes on from here.' in said
    steps = [path.name for path in (tmp_path / 'checkpoints').iterdir()]
    assert steps == ['3'], 'the signal came before the third step'
    member.train(tmp_path, 'barlow', one_device())
    for part in ('params', 'model_state'):
        found, wanted = arrays(tmp_path, part), arrays(alone('barlow'), part)
        assert all((found[name] == wanted[name]).all() for name in wanted)
    # The line that was cut in two is whole.
    logs = [
        [{k: v for k, v in row.items() if k != 'images_per_s'} for row in lines(folder)]
        for folder in (tmp_path, alone('barlow'))
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_one_step(alone, tmp_path):
    flags = '--signal=SIGTERM', '--at_step=2'
    with Members(training(tmp_path), 2, *flags, of=1) as members:
        codes, said = members.ended()
    assert codes == [START_AGAIN] * 2, said
    [step] = [int(path.name) for path in (tmp_path / 'checkpoints').iterdir()]
    assert 2 <= step < member.STEPS
    run(tmp_path, 2)
    assert_same_training(tmp_path, alone('barlow'))


@pytest.mark.slow
def test_killed_in_two_processes_it_goes_on_in_one_and_in_four(alone, tmp_path):
    for count in (1, 4):
        folder = tmp_path / str(count)
        # After the checkpoint of step 2, which is written beside training, before that
        # of step 4.
        flags = '--signal=SIGKILL', '--at_step=4', '--after=checkpoints/2'
        with Members(training(folder), 2, *flags, of=1) as members:
            codes, said = members.ended()
        assert codes == [START_AGAIN, -signal.SIGKILL], said
        assert (folder / 'checkpoints/2').is_dir()
        run(folder, count)
        assert_same_training(folder, alone('barlow'))


@pytest.mark.slow
@pytest.mark.parametrize('number', ['SIGKILL', 'SIGSTOP'])
@pytest.mark.parametrize('lost', [0, 1])
def test_the_others_end_when_one_is_lost(tmp_path, number, lost):
    with Members(training(tmp_path), 4, f'--signal={number}', of=lost) as members:
        others = [p for i, p in enumerate(members.processes) if i != lost]
        began = wait_for(tmp_path / 'disturbed', members)
        said = [process.communicate(timeout=900)[1] for process in others]
        took = time.monotonic() - began
    host = socket.gethostname()
    coordinator = ', the coordinator' if lost == 0 else ''
    # JAX ends a process itself where the coordinator is killed, and its back end for
    # CPUs where messages of two collectives mix; the others end in order, and name it.
    codes = [process.returncode for process in others]
    assert set(codes) <= {START_AGAIN, -signal.SIGABRT}, said
    assert lost == 0 or START_AGAIN in codes, said
    for code, words in zip(codes, said, strict=True):
        if code == START_AGAIN:
            found = re.search(r'Process .* (was|were) lost: ', words)
            assert found, words
            assert f'Process {lost} of 4 (on {host}{coordinator})' in found[0], words
    assert took < 2.5 * PEER_TIMEOUT_S


def wait_for(path, members):
    """Waits for what one of the processes makes; gives the time when it came."""
    while not path.exists():
        if all(process.poll() is not None for process in members.processes):
            assert path.exists(), members.ended()[1]
        time.sleep(0.1)
    return time.monotonic()


@pytest.mark.slow
def test_processes_that_see_other_folders_are_told_so(tmp_path):
    here, there = tmp_path / 'here', tmp_path / 'there'
    with Members(training(here), 2, f'--folder={there}', of=1) as members:
        codes, said = members.ended()
    assert codes == [1, 1]
    assert all('does not see' in words and '--workdir' in words for words in said)


@pytest.mark.slow
def test_an_experiment_in_two_processes_is_that_of_one(cohort, stock, tmp_path):
    workdir = tmp_path / 'two'
    program = ['-m', 'jax_mrissl.main', '--config=configs/barlow_brain.py:smoke']
    program += [f'--config.data_dir={cohort}', f'--workdir={workdir}']
    with Members(program, 2, x64=False) as members:
        codes, said = members.ended(timeout=1800)
    assert codes == [0, 0], said
    first, other = members.printed
    assert str(workdir / 'report/index.html') in first
    assert other.count('The page') == 0
    assert 'Finetuning' in said[0] and 'Finetuning' not in said[1]
    alone = stock(tmp_path / 'one')
    for path in (alone / 'stages').glob('*/done.json'):  # of the same addresses
        assert (workdir / 'stages' / path.parent.name / 'done.json').exists()
    pretrained = [
        json.loads(done.read_text())['last']
        for folder in (alone, workdir)
        for done in folder.glob('stages/pretrain-*/done.json')
    ]
    assert pretrained[0]['loss'] == pytest.approx(pretrained[1]['loss'], rel=1e-3)


def test_how_it_was_started_is_no_part_of_the_command_that_repeats_it():
    given = ['--config=a.py', '--process_id', '1', '--distributed', '--seed', '1']
    given += ['--coordinator=h:1', '-num_processes=2', '--workdir=w']
    left = ['--config=a.py', '--seed', '1', '--workdir=w']
    assert process_flags.without_process_flags(given) == left


def main_of(tmp_path, *flags):
    return subprocess.run(
        [
            *(sys.executable, '-m', 'jax_mrissl.main'),
            *('--config=configs/base.py:smoke', *flags),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize(
    ('flags', 'code', 'words'),
    [
        (['--num_processes=2'], 1, '--coordinator and --process_id must be given'),
        (
            ['--num_processes=2', '--process_id=2', '--coordinator=localhost:1'],
            1,
            '--process_id is 2; of 2 processes the last is 1.',
        ),
        (['--distributed'], 1, 'The processes cannot be joined'),
    ],
)
def test_mistakes_of_starting_are_plain_lines(tmp_path, flags, code, words):
    done = main_of(tmp_path, *flags)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_who_waits_for_the_others_in_vain_says_so(tmp_path):
    with socket.socket() as taken:
        taken.bind(('', 0))
        port = taken.getsockname()[1]
        both = [f'--coordinator=127.0.0.1:{port}', '--num_processes=2']
        taken.listen()
        done = main_of(tmp_path, *both, '--process_id=0', '--start_timeout=3')
        assert done.returncode == 1
        assert f'Process 0 cannot listen at port {port}' in done.stderr
    done = main_of(tmp_path, *both, '--process_id=0', '--start_timeout=3')
    assert done.returncode == START_AGAIN, done.stderr
    assert f'Not all processes have met at 127.0.0.1:{port} within 3 s' in done.stderr
