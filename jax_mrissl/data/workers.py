"""Processes that read raw files: a file may crash or stall one, not the command.

Each is a Python of its own that talks in lines of JSON, rather than one of
`multiprocessing`: it never imports the caller's main module (and JAX with it), it ends
when the caller is killed, because its input then ends, and nothing is unpickled.

    python -m jax_mrissl.data.workers
"""

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.records import write_shard
from jax_mrissl.data.scan import scan_files

# No image takes so long to read; a worker that is silent for longer has stalled.
_PATIENCE_S = 300.0

JOBS: dict[str, Callable[..., Iterator[Any]]] = {
    'scan': scan_files,
    'write': write_shard,
}

# A job's name and its arguments.
Job = tuple[str, dict[str, Any]]


class WorkerDied(Exception):
    """A worker crashed or stalled after `answers` answers to its job."""

    def __init__(self, answers: int, how: str):
        super().__init__(how)
        self.answers = answers
        self.how = how


class Worker:
    """One process; use as a context manager."""

    def __init__(self, patience_s: float = _PATIENCE_S):
        self._patience_s = patience_s
        # Threads of BLAS would only be in each other's way.
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
        environment['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'jax_mrissl.data.workers'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._rest = b''

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def answers(self, job: Job) -> Iterator[Any]:
        """Does a job; yields its answers as they come.

        Raises:
            WorkerDied: it crashed or stalled.
            UserError, OSError: what the job raised.
        """
        count = 0
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(job).encode() + b'\n')
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerDied(0, 'it ended by itself') from error
        while True:
            line = self._line(count)
            kind, value = json.loads(line)
            if kind == 'answer':
                count += 1
                yield value
            elif kind == 'done':
                return
            elif kind == 'mistake':
                raise UserError(value)
            elif kind == 'system':
                raise OSError(*value)
            else:
                raise RuntimeError(f'A worker failed:\n{value}')

    def _line(self, count: int) -> bytes:
        assert self._process.stdout
        pipe = self._process.stdout.fileno()
        pieces = [self._rest]
        while b'\n' not in pieces[-1]:
            ready, _, _ = select.select([pipe], [], [], self._patience_s)
            if not ready:
                raise WorkerDied(count, f'it was silent for {self._patience_s:.0f} s')
            piece = os.read(pipe, 1 << 20)
            if not piece:
                code = self._process.wait()
                raise WorkerDied(count, f'it ended with code {code}')
            pieces.append(piece)
        line, _, self._rest = b''.join(pieces).partition(b'\n')
        return line


# Says, of a job whose worker died, what stands for the missing answer, and the job
# that remains.
Heir = Callable[[Job, WorkerDied], tuple[Any, Job]]


def no_heir(job: Job, death: WorkerDied) -> tuple[Any, Job]:
    """Gives up: a job that must not die."""
    raise UserError(
        f'A process that writes records died ({death.how}). Most often the memory is '
        'too small for so many: start again with fewer --workers.'
    )


def skip_file(job: Job, death: WorkerDied) -> tuple[Any, Job]:
    """Rejects the file that a scan died of, and goes on with those after it."""
    kind, arguments = job
    answer = {
        'slices': [],
        'reason': 'crashes or stalls its reader',
        'detail': death.how,
    }
    rest = {**arguments, 'paths': arguments['paths'][death.answers + 1 :]}
    return answer, (kind, rest)


def perform(
    jobs: Sequence[Job],
    *,
    workers: int,
    on_answer: Callable[[int, Any], None],
    heir: Heir = no_heir,
) -> None:
    """Does all jobs, in any order, on as many processes; with one, in this process.

    Args:
        jobs: what to do.
        workers: the number of processes.
        on_answer: called with the number of a job and an answer, by one thread at a
            time.
        heir: how to go on after a worker died.

    Raises:
        UserError, OSError: the first that a job raised; the others are not finished.
    """
    if workers <= 1 or len(jobs) <= 1:
        for number, (kind, arguments) in enumerate(jobs):
            for answer in JOBS[kind](**arguments):
                on_answer(number, answer)
        return
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)
    answered = threading.Lock()
    errors: list[BaseException] = []

    def answer_one(number: int, answer: Any) -> None:
        if errors:  # another job failed, or the user stopped it all
            raise queue.Empty
        with answered:
            on_answer(number, answer)

    def work_until_death(held: list[tuple[int, Job]]) -> None:
        with Worker() as worker:
            while True:
                if not held:
                    number = waiting.get_nowait()
                    held.append((number, jobs[number]))
                number, job = held[0]
                try:
                    for answer in worker.answers(job):
                        answer_one(number, answer)
                except WorkerDied as death:
                    answer, rest = heir(job, death)
                    answer_one(number, answer)
                    held[0] = number, rest
                    return
                held.clear()

    def work() -> None:
        held: list[tuple[int, Job]] = []
        try:
            while True:
                work_until_death(held)
        except queue.Empty:
            return
        except BaseException as error:  # handed to the caller's thread, below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(min(workers, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C: the threads stop at the next answer
        errors.append(error)
        raise
    if errors:
        raise errors[0]


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    def say(kind: str, value: Any) -> None:
        answers.write(json.dumps([kind, value]).encode() + b'\n')
        answers.flush()

    for line in requests:
        kind, arguments = json.loads(line)
        try:
            for answer in JOBS[kind](**arguments):
                say('answer', answer)
            say('done', None)
        except UserError as error:
            say('mistake', str(error))
        except OSError as error:
            say('system', [error.errno, str(error)])
        except Exception:
            say('failure', traceback.format_exc())


if __name__ == '__main__':
    # What libraries print must not come between the answers.
    _answers = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        _serve(sys.stdin.buffer, _answers)
