"""Does jobs: each once, after those it depends on, beside other workers.

A worker is one process, or several that train together: the first of them says which
job is next, and all do it.
"""

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Mapping, Sequence

from absl import logging

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import duration
from jax_mrissl.stages.claims import Claims, forget
from jax_mrissl.stages.plan import Job
from jax_mrissl.stages.store import Store

_LOOK_AGAIN_S = 2.0
_SAY_AGAIN_S = 60.0
# In which processes fail that fail for one reason.
_ALIKE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """A job that cannot be done.

    Attributes:
        job: which.
        error: why, in a sentence or more.
    """

    job: Job
    error: str


def do_jobs(
    jobs: Sequence[Job],
    store: Store,
    *,
    go_on: bool = False,
    claims: Claims | None = None,
) -> list[Failure]:
    """Does what is not done yet, and waits for what others are doing.

    Args:
        jobs: each after those it depends on; equal stages are done once.
        store: where results are kept.
        go_on: whether a job that fails is written down as failed, and the others are
            done; it is not tried again. False: its error is raised, and what failed
            before is tried again.
        claims: how others are told of; None: the usual.

    Returns: what failed, with what depends on that; empty without `go_on`.

    Raises:
        UserError, Exception: what a job raised, without `go_on`.
    """
    # By address: experiments share stages.
    distinct = {job.stage.address: job for job in reversed(jobs)}
    distinct = dict(reversed(distinct.items()))
    processes.expect_same(list(distinct), 'datasets')
    queue = _Queue(distinct, store, claims or Claims(), go_on=go_on)
    while address := processes.share(queue.take):
        try:
            _do(distinct[address], store, go_on=go_on)
        finally:
            queue.give_back()
        if go_on:
            done = sum(store.is_done(job.stage) for job in distinct.values())
            logging.info('%d of %d stages are done.', done, len(distinct))
    failed = processes.share(lambda: queue.failures)
    return [Failure(distinct[address], error) for address, error in failed.items()]


class _Queue:
    """What is left to do, as the disk says; of several processes the first asks it.

    Args:
        jobs: by the addresses of their stages, each after those it depends on.
        store, claims, go_on: as in `do_jobs`.

    Attributes:
        failures: by address, why jobs cannot be done.
    """

    def __init__(
        self, jobs: Mapping[str, Job], store: Store, claims: Claims, *, go_on: bool
    ):
        self._jobs, self._store, self._claims, self._go_on = jobs, store, claims, go_on
        self._left = dict(jobs)
        self._claim = contextlib.ExitStack()
        self._has_taken = False
        self._said = -_SAY_AGAIN_S
        self.failures: dict[str, str] = {}

    def take(self) -> str:
        """Claims the first job that can be done; waits while others do theirs.

        Returns: its address; '': none is left.
        """
        while True:
            for address, job in list(self._left.items()):
                if self._is_settled(address, job):
                    del self._left[address]
                elif self._can_claim(job):
                    self._has_taken = True
                    return address
            if not self._left:
                break
            self._say_who_works()
            time.sleep(_LOOK_AGAIN_S)
        if not self._has_taken and not self.failures:
            logging.info('All %d stages are done.', len(self._jobs))
        return ''

    def give_back(self) -> None:
        """Lets go of the claim on the job that was taken."""
        self._claim.close()

    def _is_settled(self, address: str, job: Job) -> bool:
        """Says whether the job is done, or will not be done in this run."""
        if self._store.is_done(job.stage):
            return True
        if not self._go_on:
            return False
        error = self._store.failure(job.stage)
        for stage in job.stage.inputs:
            if not error and stage.address in self.failures:
                error = f'It needs: {self._jobs[stage.address].what}.'
        if error:
            self.failures[address] = error
        return bool(error)

    def _can_claim(self, job: Job) -> bool:
        if not all(self._store.is_done(stage) for stage in job.stage.inputs):
            return False
        folder = self._store.folder(job.stage)
        if not self._claim.enter_context(self._claims.take(folder)):
            self._claim.close()  # or each look would leave something in it
            return False
        if self._store.is_done(job.stage):  # by another one, a moment ago
            self._claim.close()
            forget(folder)
            return False
        return True

    def _say_who_works(self) -> None:
        if time.monotonic() - self._said < _SAY_AGAIN_S:
            return
        self._said = time.monotonic()
        others = [
            f'{job.what} ({owner})'
            for job in self._left.values()
            if (owner := self._claims.owner(self._store.folder(job.stage)))
        ]
        logging.info('Waiting for others: %s.', '; '.join(others) or 'none')


def _do(job: Job, store: Store, *, go_on: bool) -> None:
    logging.info('%s: starts.', job.what)
    began = time.monotonic()
    try:
        facts = job.run(store.folder(job.stage))
    except Exception as error:
        # Others that have not failed alike wait in a collective, and always would.
        if not go_on or not processes.meet(within_s=_ALIKE_S):
            raise
        words = str(error) if isinstance(error, UserError) else traceback.format_exc()
        if processes.is_first():
            store.mark_failed(job.stage, words)
        logging.error('%s: FAILED: %s', job.what, words)
        return
    if processes.is_first():
        store.mark_done(job.stage, facts)
        forget(store.folder(job.stage))
    logging.info('%s: done, in %s.', job.what, duration(time.monotonic() - began))
