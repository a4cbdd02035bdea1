"""One process at a time works on a stage; a dead one's claim passes on."""

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jax_mrissl.core.preemption import START_AGAIN
from jax_mrissl.stages import claims
from jax_mrissl.stages.claims import Claims, forget

# Takes a claim, says so, and works or stands still until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from jax_mrissl.stages.claims import Claims
with Claims(beat_s=float(sys.argv[2])).take(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder():
    started = []

    def start(folder, beat_s=0.1):
        process = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(folder), str(beat_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == 'True\n'
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_of_many_gets_it(tmp_path):
    got = []
    at_once = threading.Barrier(8)

    def try_it():
        at_once.wait()
        with Claims().take(tmp_path) as ours:
            got.append(ours)
            time.sleep(0.3)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    with Claims().take(tmp_path) as ours:
        assert ours  # it was released


def test_an_error_releases_it_and_a_finished_stage_keeps_nothing(tmp_path):
    with pytest.raises(ValueError, match='oh'), Claims().take(tmp_path):
        raise ValueError('oh')
    with Claims().take(tmp_path) as ours:
        assert ours
        forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_a_killed_process_it_passes_on_at_once(tmp_path, holder):
    process = holder(tmp_path)
    mine = Claims()
    with mine.take(tmp_path) as ours:
        assert not ours
    assert mine.owner(tmp_path).startswith(f'process {process.pid} on ')
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert mine.owner(tmp_path) == ''
    with mine.take(tmp_path) as ours:
        assert ours


def test_on_another_machine_only_silence_tells(tmp_path, holder, monkeypatch):
    """A slow one's claim moves and does not expire; a dead one's stands still."""
    process = holder(tmp_path)
    monkeypatch.setattr(claims, '_machine', lambda: 'another')
    mine = Claims(expires_s=1.0)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        with mine.take(tmp_path) as ours:
            assert not ours
        time.sleep(0.1)
    process.kill()
    process.wait()
    died = time.monotonic()
    while True:
        with mine.take(tmp_path) as ours:
            if ours:
                break
        time.sleep(0.05)
    assert time.monotonic() - died >= 0.7


def test_a_number_that_was_given_again_is_no_sign_of_life(tmp_path):
    about = {**claims._who(), 'started': 'long ago'}
    (tmp_path / 'claim-000000').write_text(f'{json.dumps(about)}\n000000000000\n')
    with Claims().take(tmp_path) as ours:
        assert ours


def test_a_claim_in_which_nothing_stands_expires_too(tmp_path):
    (tmp_path / 'claim-000000').touch()
    mine = Claims(expires_s=0.3)
    with mine.take(tmp_path) as ours:
        assert not ours  # somebody may be about to write it
    time.sleep(0.4)
    with mine.take(tmp_path) as ours:
        assert ours


def test_a_claim_that_cannot_be_written_is_not_left_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_text', full)
        with pytest.raises(OSError, match='No space'), Claims().take(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_who_stood_still_too_long_ends(tmp_path, holder, monkeypatch):
    process = holder(tmp_path, beat_s=0.1)
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(claims, '_machine', lambda: 'another')
    mine = Claims(expires_s=0.5)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with mine.take(tmp_path) as ours:
            if ours:
                process.send_signal(signal.SIGCONT)
                assert process.wait(timeout=20) == START_AGAIN
                return
        time.sleep(0.1)
    raise AssertionError('it was never taken over')
