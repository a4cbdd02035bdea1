"""Who is lost is named by the others, over a service that is a dict here."""

import threading
import time

import pytest

from jax_mrissl.core import roll_call
from jax_mrissl.core.preemption import START_AGAIN
from jax_mrissl.core.roll_call import RollCall

# Where a process would end, its thread does, by an exception.
pytestmark = pytest.mark.filterwarnings(
    'ignore::pytest.PytestUnhandledThreadExceptionWarning'
)

NAMES = ['Process 0 (on a)', 'Process 1 (on b)', 'Process 2 (on c)']
TIMEOUT_S = 2.0


class Service:
    """What is used of the client of JAX's coordination service."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()
        self.is_there = True

    def key_value_set(self, key, value, allow_overwrite=False):
        with self._changed:
            self._expect()
            if key in self._values and not allow_overwrite:
                raise RuntimeError('ALREADY_EXISTS')
            self._values[key] = value
            self._changed.notify_all()

    def key_value_dir_get(self, prefix):
        with self._changed:
            self._expect()
            return [item for item in self._values.items() if item[0].startswith(prefix)]

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            found = self._changed.wait_for(
                lambda: key in self._values or not self.is_there, timeout_ms / 1000
            )
            self._expect()
            if not found:
                raise RuntimeError('DEADLINE_EXCEEDED')
            return self._values[key]

    def break_down(self):
        with self._changed:
            self.is_there = False
            self._changed.notify_all()

    def _expect(self):
        if not self.is_there:
            raise RuntimeError('UNAVAILABLE: Socket closed')


@pytest.fixture
def ended(monkeypatch):
    """Gives how processes end: [(exit code, words)], where they would end."""
    found = []

    def end(code):
        found.append(code)
        raise SystemExit  # of the thread alone

    monkeypatch.setattr(roll_call, 'end_now', end)
    return found


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def members(service, *indices):
    return [RollCall(service, index, NAMES, TIMEOUT_S) for index in indices]


def test_all_come_to_the_end(ended):
    service = Service()
    first, *others = members(service, 0, 1, 2)
    time.sleep(1.5 * TIMEOUT_S)
    stops = [threading.Thread(target=member.stop) for member in others]
    for stop in stops:
        stop.start()
    first.stop()
    for stop in stops:
        stop.join()
    assert ended == []


def test_one_that_gives_no_sign_of_life_is_named(ended, capsys):
    members(Service(), 0, 1)  # process 2 does not come
    wait_until(lambda: len(ended) == 2)
    assert ended == [START_AGAIN] * 2
    said = capsys.readouterr().err
    assert said.count('Process 2 (on c) was lost') == 2
    assert 'Process 1' not in said


def test_a_coordinator_that_stands_still_is_named(ended, capsys):
    members(Service(), 1, 2)  # the service answers, but process 0 is not seen
    wait_until(lambda: len(ended) == 2)
    assert ended == [START_AGAIN] * 2
    assert capsys.readouterr().err.count('Process 0 (on a) was lost') == 2


def test_a_service_that_is_gone_is_known_at_once(ended, capsys):
    service = Service()
    began = time.monotonic()
    members(service, 1)
    service.break_down()
    wait_until(lambda: ended)
    assert time.monotonic() - began < TIMEOUT_S
    assert 'Process 0 (on a) was lost' in capsys.readouterr().err


def test_who_ends_with_an_error_ends_the_others_alike(ended, capsys):
    service = Service()
    _, second, _ = members(service, 0, 1, 2)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        second.leave(3, 'no such image')
    wait_until(lambda: len(ended) == 3)
    assert time.monotonic() - began < TIMEOUT_S
    assert ended == [3] * 3
    said = capsys.readouterr().err
    assert said.count('Process 1 (on b) has ended: no such image') == 2
