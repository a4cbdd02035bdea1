"""The one reading of raw files: every file once, by a crew, for its facts."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

from jax_mrissl.core.progress import Progress
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.scan import FileFacts, Storage, from_json
from jax_mrissl.data.spool import FILES_PER_JOB, Spool
from jax_mrissl.data.workers import Crew, Job, skip_file


def read_facts(
    files: Sequence[RawFile], spool: Spool, storage: Storage, crew: Crew
) -> list[FileFacts]:
    """Reads all files, once each; gives what is known of them, in their order.

    Args:
        files: any; one that crashes its reader is told as that.
        spool: gets what is too large to be held in memory.
        storage: how the images are to be stored.
        crew: does it.
    """
    facts: list[FileFacts | None] = [None] * len(files)
    next_file = [*range(0, len(files), FILES_PER_JOB)]

    def jobs() -> Iterator[Job]:
        for number, start in enumerate(range(0, len(files), FILES_PER_JOB)):
            some = files[start : start + FILES_PER_JOB]
            yield (
                'scan',
                {
                    'paths': [os.path.join(f.folder, f.path) for f in some],
                    'spool': str(spool.path(number)),
                    'storage': dataclasses.asdict(storage),
                },
            )

    with Progress('Reading images', len(files), unit='files') as bar:

        def keep(job: int, answer: list[dict[str, Any]]) -> None:
            for told in answer:
                facts[next_file[job]] = from_json(told)
                next_file[job] += 1
            bar.advance(len(answer))

        crew.perform(jobs(), on_answer=keep, heir=skip_file)
    return [one for one in facts if one]
