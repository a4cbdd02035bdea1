"""The scripts of launch/: what they would run, and how they start things again."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / 'launch'
SCRIPTS = sorted(LAUNCH.glob('*.sh'))
MAIN = [
    'main',
    '--config=configs/barlow_brain.py:smoke',
    "--config.chain=('pretrain',)",
]
FLAGS = MAIN[1:]


@pytest.fixture(autouse=True)
def all_accelerators_are_visible(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)


def run(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def words(line):
    """Splits a printed line as a shell would; without its comment."""
    return shlex.split(line, comments=True)


def fake(folder, name, text):
    path = folder / name
    path.write_text('#!/usr/bin/env bash\n' + text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_and_says_what_it_is_for(path):
    subprocess.run(['bash', '-n', path], check=True)
    assert os.access(path, os.X_OK)
    told = run(path.name)
    assert told.returncode == 2
    assert f'launch/{path.name}' in told.stdout


def test_one_process_for_a_machine():
    done = run('one_machine.sh', '--dry_run', *MAIN)
    assert words(done.stdout) == ['python', '-m', 'jax_mrissl.main', *FLAGS]


def test_a_process_for_each_accelerator():
    done = run('one_machine.sh', '--dry_run', '--processes=2', '--port=9', *MAIN)
    assert [words(line) for line in done.stdout.splitlines()] == [
        [
            f'CUDA_VISIBLE_DEVICES={i}',
            *['python', '-m', 'jax_mrissl.main', *FLAGS],
            *['--coordinator=localhost:9', '--num_processes=2', f'--process_id={i}'],
        ]
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ('given', 'seen'),
    [
        ('2,3', ['2', '3']),
        ('GPU-8932f937, MIG-5c2b,7', ['GPU-8932f937', 'MIG-5c2b']),
        ('', ['', '']),  # none: the processes run on the CPU
        ('-1', ['-1', '-1']),
    ],
)
def test_a_process_for_each_accelerator_that_is_visible(given, seen):
    arguments = ['--dry_run', '--processes=2', *MAIN]
    done = run('one_machine.sh', *arguments, CUDA_VISIBLE_DEVICES=given)
    assert [words(line)[0] for line in done.stdout.splitlines()] == [
        f'CUDA_VISIBLE_DEVICES={name}' for name in seen
    ]


def test_fewer_accelerators_are_visible_than_processes():
    arguments = ['--dry_run', '--processes=3', *MAIN]
    done = run('one_machine.sh', *arguments, CUDA_VISIBLE_DEVICES='2,3')
    assert (done.returncode, done.stdout) == (2, '')
    assert '3 processes' in done.stderr and '2,3' in done.stderr


def test_several_machines():
    given = ['--coordinator=node0', '--machines=3', '--index=2']
    done = run('many_machines.sh', '--dry_run', *given, *MAIN)
    assert words(done.stdout) == [
        *['python', '-m', 'jax_mrissl.main', *FLAGS],
        *['--coordinator=node0:8476', '--num_processes=3', '--process_id=2'],
    ]
    assert run('many_machines.sh', '--dry_run', '--machines=3', *MAIN).returncode == 2


def test_slurm_job_and_array():
    done = run('slurm.sh', '--dry_run', *MAIN)
    srun = ['srun', '--kill-on-bad-exit=0', 'python', '-m']
    assert words(done.stdout) == [*srun, 'jax_mrissl.main', *FLAGS, '--distributed']
    study = ['study', '--config=configs/study.py']
    done = run('slurm.sh', '--dry_run', '--array', *study)
    assert words(done.stdout) == [*srun, 'jax_mrissl.study', *study[1:]]
    options = [
        line.split()[1]
        for line in (LAUNCH / 'slurm.sh').read_text().splitlines()
        if line.startswith('#SBATCH')
    ]
    assert {'--requeue', '--open-mode=append', '--signal=TERM@120'} <= set(options)


def test_tpu_pod():
    given = dict(TPU_NAME='pod', TPU_ZONE='zone', REPOSITORY='https://example.org/r')
    where = ['pod', '--zone=zone', '--worker=all']
    ssh = ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', *where]
    *found, command = words(run('tpu_pod.sh', '--dry_run', *MAIN, **given).stdout)
    assert found == ssh
    started = command.removeprefix('--command=').split(' && ')[-1]
    assert words(started) == [
        'launch/until_done.sh',
        *['python', '-m', 'jax_mrissl.main', *FLAGS, '--distributed'],
    ]
    for action in ('create', 'setup', 'delete'):
        done = run('tpu_pod.sh', '--dry_run', action, **given)
        assert words(done.stdout.splitlines()[0])[:3] == ['gcloud', 'compute', 'tpus']


def test_kubernetes_job_set():
    odd = r'--config.name="a\b" c: #d'
    given = dict(NAME='mine', IMAGE='image:1', MACHINES='3', GPUS='4', CLAIM='disk')
    done = run('kubernetes.sh', '--dry_run', *MAIN, odd, **given)
    manifest = yaml.safe_load(done.stdout)
    assert (manifest['apiVersion'], manifest['kind']) == (
        'jobset.x-k8s.io/v1alpha2',
        'JobSet',
    )
    [machines] = manifest['spec']['replicatedJobs']
    job = machines['template']['spec']
    assert (job['completionMode'], job['completions'], job['parallelism']) == (
        'Indexed',
        3,
        3,
    )
    pod = job['template']['spec']
    [container] = pod['containers']
    # JobSet names pods JOBSET-REPLICATEDJOB-JOB-POD.SUBDOMAIN, the latter its own name.
    host = f'{manifest["metadata"]["name"]}-{machines["name"]}-0-0.mine'
    assert container['command'] == ['python', '-m', 'jax_mrissl.main']
    assert container['args'] == [
        *[f'--coordinator={host}:8476', '--num_processes=3'],
        *['--process_id=$(JOB_COMPLETION_INDEX)', *FLAGS, odd],
    ]
    assert container['ports'] == [{'containerPort': 8476}]
    assert container['resources']['limits'] == {'nvidia.com/gpu': 4}
    assert {m['name'] for m in container['volumeMounts']} == {
        v['name'] for v in pod['volumes']
    }
    # A mistake ends the job; all else starts it again.
    [rule] = job['podFailurePolicy']['rules']
    assert rule['onExitCodes']['values'] == [1, 2]
    assert rule['onExitCodes']['containerName'] == container['name']
    assert manifest['spec']['failurePolicy']['maxRestarts'] > 0


def test_what_asks_for_it_is_started_again(tmp_path):
    command = fake(
        tmp_path, 'command', 'echo "$1" >> log; exit $((75 * ($(wc -l < log) < 3)))\n'
    )
    done = subprocess.run(
        [LAUNCH / 'until_done.sh', command, 'a b'],
        cwd=tmp_path,
        env=os.environ | {'RETRY_S': '0'},
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / 'log').read_text() == 'a b\n' * 3
    failed = fake(tmp_path, 'failed', 'exit 1\n')
    assert run('until_done.sh', failed, RETRY_S='0').returncode == 1


def test_sigterm_reaches_the_command_and_ends_both(tmp_path):
    command = fake(
        tmp_path,
        'command',
        f'trap "echo saved > {tmp_path}/saved; exit 75" TERM\n'
        f'touch {tmp_path}/ready\nwhile :; do sleep 0.1; done\n',
    )
    running = subprocess.Popen([LAUNCH / 'until_done.sh', command])
    while not (tmp_path / 'ready').exists():
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 75
    assert (tmp_path / 'saved').exists()


def press_ctrl_c(running):
    """Sends SIGINT to a script and all that it started, as a terminal does."""
    os.killpg(running.pid, signal.SIGINT)


@pytest.mark.parametrize('second', [False, True])
@pytest.mark.parametrize(
    'script',
    [
        ['until_done.sh', './python'],
        ['one_machine.sh', 'main'],
        ['one_machine.sh', '--processes=2', 'main'],
        ['many_machines.sh', '--coordinator=a', '--machines=1', '--index=0', 'main'],
    ],
    ids=' '.join,
)
def test_ctrl_c_lets_the_command_save_and_ends_both(tmp_path, script, second):
    count = 2 if '--processes=2' in script else 1
    command = tmp_path / 'python'
    command.write_text(f"""#!{sys.executable}
import pathlib, os, signal, sys, time
def save(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pathlib.Path(f'saves_{{os.getpid()}}').touch()
    time.sleep({60 if second else 0})
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(f'started_{{os.getpid()}}').touch()
time.sleep(60)
""")
    command.chmod(0o755)
    name, *arguments = script
    running = subprocess.Popen(
        [LAUNCH / name, *arguments],
        cwd=tmp_path,
        env=os.environ | {'PYTHON': './python', 'RETRY_S': '0'},
        start_new_session=True,
        # Whoever started the tests may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(count, tmp_path, 'started_*')
        press_ctrl_c(running)
        wait_for(count, tmp_path, 'saves_*')
        if second:
            press_ctrl_c(running)
        assert running.wait(timeout=20) == (143 if second else 75)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert len(list(tmp_path.glob('started_*'))) == count


def wait_for(count, folder, pattern):
    """Waits until there are so many files of a pattern."""
    until = time.monotonic() + 20
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < until, pattern
        time.sleep(0.02)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_what_is_ended_before_another_start_is_not_started(tmp_path, number):
    command = fake(
        tmp_path,
        'command',
        f'cd {tmp_path}; echo >> log; exit $((75 * ($(wc -l < log) < 2)))\n',
    )
    running = subprocess.Popen(
        [LAUNCH / 'until_done.sh', command],
        env=os.environ | {'RETRY_S': '1'},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert 'starting again' in running.stderr.readline()
    running.send_signal(number)
    assert running.wait(timeout=20) == 75
    assert (tmp_path / 'log').read_text() == '\n'
    running.stderr.close()


def test_processes_of_a_machine_end_with_the_code_of_one(tmp_path):
    python = fake(
        tmp_path, 'python', f'echo "$@" >> {tmp_path}/log; [[ "$*" != *id=1 ]]\n'
    )
    done = run('one_machine.sh', '--processes=2', *MAIN, PYTHON=str(python))
    assert done.returncode == 1
    lines = sorted((tmp_path / 'log').read_text().splitlines())
    assert [line.split()[-1] for line in lines] == ['--process_id=0', '--process_id=1']


@pytest.mark.parametrize(
    ('code', 'state', 'requeued'),
    [(75, 'RUNNING', True), (75, 'COMPLETING', False), (1, 'RUNNING', False)],
)
def test_slurm_job_goes_back_unless_it_was_cancelled(tmp_path, code, state, requeued):
    fake(tmp_path, 'srun', f'exit {code}\n')
    fake(tmp_path, 'squeue', f'echo {state}\n')
    fake(tmp_path, 'sleep', 'true\n')
    fake(tmp_path, 'scontrol', f'echo "$@" > {tmp_path}/asked\n')
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    done = run('slurm.sh', *MAIN, PATH=path, SLURM_JOB_ID='7')
    assert done.returncode == code
    asked = tmp_path / 'asked'
    assert asked.exists() == requeued
    assert not requeued or asked.read_text() == 'requeue 7\n'
