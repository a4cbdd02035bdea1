"""SIGTERM: at once, or when the work at hand has come to a good end."""

import os
import signal
import sys
import time

import pytest

from jax_mrissl.core import preemption
from jax_mrissl.core.preemption import Preempted, deferred, listen, settle


@pytest.fixture(autouse=True)
def listening(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(preemption, '_noticed', False)
    listen()
    yield
    settle()
    signal.signal(signal.SIGTERM, before)


def send():
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_ends_what_can_be_done_again():
    with pytest.raises(Preempted):
        send()


def test_it_waits_for_a_block_of_work():
    done = []
    with pytest.raises(Preempted), deferred() as has_come:
        assert not has_come()
        send()
        assert has_come()
        done.append('saved')
    assert done == ['saved']


def test_a_second_one_is_not_held_back():
    with pytest.raises(Preempted), deferred():
        send()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_it_nothing_happens():
    with deferred() as has_come:
        assert not has_come()
    with pytest.raises(Preempted):
        send()


def test_an_error_of_the_work_goes_before():
    with pytest.raises(ZeroDivisionError), deferred():
        send()
        raise ZeroDivisionError


def test_it_is_raised_again_where_python_ignored_it(monkeypatch):
    monkeypatch.setattr(preemption, '_LOOK_AGAIN_S', 0.05)
    ignored = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda told: ignored.append(told))

    class Swallows:
        def __del__(self):  # as callbacks of the garbage collector do
            send()

    with pytest.raises(Preempted):
        Swallows()
        assert len(ignored) == 1
        time.sleep(10)


def test_what_ends_the_work_is_not_disturbed(monkeypatch):
    monkeypatch.setattr(preemption, '_LOOK_AGAIN_S', 0.05)
    saved = False
    try:
        try:
            send()
        finally:
            time.sleep(0.2)
            saved = True
    except Preempted:
        settle()
    time.sleep(0.1)
    assert saved
