"""Processes that read raw files: a file may crash or stall one, not the command.

Each is a Python of its own that talks in lines of JSON, rather than one of
`multiprocessing`: it never imports the caller's main module (and JAX with it), it ends
when the caller is killed, because its input then ends, and nothing is unpickled. It
loads neither TFDS nor pydicom before a file needs it, and so is ready in half a second.

    python -m jax_mrissl.data.workers
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jax_mrissl.core.errors import UserError
from jax_mrissl.data.inventory import file_sha256
from jax_mrissl.data.records import write_shard
from jax_mrissl.data.scan import scan_files

_ENVIRONMENT = {
    # Threads of BLAS would only be in each other's way.
    'OMP_NUM_THREADS': '1',
    'OPENBLAS_NUM_THREADS': '1',
    # Memory of one image is kept for the next; to return it to the system and to get
    # it back as empty pages costs as much as to decode a JPEG.
    'MALLOC_MMAP_THRESHOLD_': '268435456',
    'MALLOC_TRIM_THRESHOLD_': '268435456',
}
# No image takes so long to read; a worker that is silent for longer has stalled.
_PATIENCE_S = 300.0

JOBS: dict[str, Callable[..., Iterator[Any]]] = {
    'scan': scan_files,
    'write': write_shard,
}

# A job's name and its arguments.
Job = tuple[str, dict[str, Any]]


class WorkerDied(Exception):
    """A worker crashed or stalled after `answers` answers to its job.

    A list counts as so many answers as it is long.
    """

    def __init__(self, answers: int, how: str):
        super().__init__(how)
        self.answers = answers
        self.how = how


class Worker:
    """One process; use as a context manager."""

    def __init__(self, patience_s: float = _PATIENCE_S):
        self._patience_s = patience_s
        environment = os.environ | _ENVIRONMENT
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
        self.end()

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
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
                count += len(value) if isinstance(value, list) else 1
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
    """Rejects the file that a scan died of, and goes on with those after it.

    A scan tells of some files together. It is one of them: they are read again one by
    one, to see which.
    """
    kind, arguments = job
    paths = arguments['paths'][death.answers :]
    if arguments.get('together') != 1:
        return [], (kind, {**arguments, 'paths': paths, 'together': 1})
    answer = {
        'sha256': file_sha256(Path(paths[0])),
        'slices': [],
        'reason': 'crashes or stalls its reader',
        'detail': death.how,
    }
    return [answer], (kind, {**arguments, 'paths': paths[1:]})


class _Over(Exception):
    """There are no more jobs, or none is wanted any more."""


class Crew:
    """Worker processes that stay from one lot of jobs to the next; a context manager.

    Args:
        count: how many there are; with one, all is done in this process.
    """

    def __init__(self, count: int):
        self._count = count
        self._idle: list[Worker] = []

    def __enter__(self) -> 'Crew':
        return self

    def __exit__(self, *error: object) -> None:
        while self._idle:
            self._idle.pop().end()

    def start(self) -> None:
        """Starts the processes, so that they load while the caller does other work."""
        while self._count > 1 and len(self._idle) < self._count:
            self._idle.append(Worker())

    def perform(
        self,
        jobs: Iterable[Job],
        *,
        on_answer: Callable[[int, Any], None],
        heir: Heir = no_heir,
    ) -> None:
        """Does all jobs, in any order.

        Args:
            jobs: what to do; each is made when its turn comes, by one thread at a time.
            on_answer: called with the number of a job and an answer, by one thread at
                a time.
            heir: how to go on after a worker died.

        Raises:
            UserError, OSError: the first that a job raised; the others are not
                finished.
        """
        numbered = enumerate(jobs)
        if self._count <= 1:
            for number, (kind, arguments) in numbered:
                for answer in JOBS[kind](**arguments):
                    on_answer(number, answer)
            return
        one_at_a_time = threading.Lock()
        errors: list[BaseException] = []

        def take() -> tuple[int, Job]:
            with one_at_a_time:
                job = next(numbered, None)
            if job is None or errors:
                raise _Over
            return job

        def answer_one(number: int, answer: Any) -> None:
            if errors:  # another job failed, or the user stopped it all
                raise _Over
            with one_at_a_time:
                on_answer(number, answer)

        def work() -> None:
            worker: Worker | None = None
            at_rest = True
            try:
                number, job = take()
                while True:
                    worker = worker or self._hire()
                    at_rest = False
                    try:
                        for answer in worker.answers(job):
                            answer_one(number, answer)
                    except WorkerDied as death:
                        worker.end()
                        worker = None
                        answer, rest = heir(job, death)
                        answer_one(number, answer)
                        job = rest
                        continue
                    at_rest = True
                    number, job = take()
            except _Over:
                pass
            except BaseException as error:  # handed to the caller's thread, below
                errors.append(error)
            if worker and at_rest:
                self._idle.append(worker)
            elif worker:  # it would go on with its job
                worker.end()

        threads = [threading.Thread(target=work) for _ in range(self._count)]
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

    def _hire(self) -> Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return Worker()


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
