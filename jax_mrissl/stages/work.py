"""Does jobs: each once, after those it depends on, beside other processes."""

import dataclasses
import time
import traceback
from collections.abc import Sequence

from absl import logging

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import duration
from jax_mrissl.stages.claims import Claims, forget
from jax_mrissl.stages.plan import Job
from jax_mrissl.stages.store import Store

_LOOK_AGAIN_S = 2.0
_SAY_AGAIN_S = 60.0


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
    claims = claims or Claims()
    # By address: experiments share stages.
    distinct = {job.stage.address: job for job in reversed(jobs)}
    left = dict(reversed(distinct.items()))
    failures: dict[str, Failure] = {}
    total = len(left)
    said = -_SAY_AGAIN_S
    ran = False
    while left:
        tried = False
        for address, job in list(left.items()):
            if store.is_done(job.stage):
                del left[address]
                continue
            failure = _known_failure(job, store, failures, go_on)
            if failure:
                failures[address] = failure
                del left[address]
                continue
            if not all(store.is_done(stage) for stage in job.stage.inputs):
                continue
            with claims.take(store.folder(job.stage)) as ours:
                if not ours:
                    continue
                if store.is_done(job.stage):  # by another one, a moment ago
                    forget(store.folder(job.stage))
                    continue
                _do(job, store, go_on=go_on)
            tried = ran = True
            if go_on:
                done = sum(store.is_done(job.stage) for job in distinct.values())
                logging.info('%d of %d stages are done.', done, total)
            break  # from the front: what was waiting may be possible now
        if tried or not left:
            continue
        if time.monotonic() - said > _SAY_AGAIN_S:
            said = time.monotonic()
            others = [
                f'{job.what} ({owner})'
                for job in left.values()
                if (owner := claims.owner(store.folder(job.stage)))
            ]
            logging.info('Waiting for others: %s.', '; '.join(others) or 'none')
        time.sleep(_LOOK_AGAIN_S)
    if not ran and not failures:
        logging.info('All %d stages are done.', total)
    return list(failures.values())


def _known_failure(
    job: Job, store: Store, failures: dict[str, Failure], go_on: bool
) -> Failure | None:
    """Says why a job will not be done in this run; None: it may be."""
    if not go_on:
        return None
    if error := store.failure(job.stage):
        return Failure(job, error)
    for stage in job.stage.inputs:
        if stage.address in failures:
            return Failure(job, f'It needs: {failures[stage.address].job.what}.')
    return None


def _do(job: Job, store: Store, *, go_on: bool) -> None:
    logging.info('%s: starts.', job.what)
    began = time.monotonic()
    try:
        facts = job.run(store.folder(job.stage))
    except Exception as error:
        if not go_on:
            raise
        words = str(error) if isinstance(error, UserError) else traceback.format_exc()
        store.mark_failed(job.stage, words)
        logging.error('%s: FAILED: %s', job.what, words)
        return
    store.mark_done(job.stage, facts)
    forget(store.folder(job.stage))
    logging.info('%s: done, in %s.', job.what, duration(time.monotonic() - began))
