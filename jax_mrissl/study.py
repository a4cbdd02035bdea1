r"""Runs a study: a grid of experiments, each stage once; writes its tables and page.

    python -m jax_mrissl.study --config=configs/study.py:demo

    python -m jax_mrissl.study --config=configs/study.py --config.data_dir=data \
        --config.study.methods="('barlow',)" --workdir=runs/study --dry_run

Start the same command as often as you like, on all machines that share the disk: each
takes what no other has taken. Killed and started again it goes on where it stopped.
SIGTERM saves first; the exit code is then 75 (start again), as after a lost process.
What failed stays so, and the rest goes on; --retry_failed tries it again. `main` with
the study's workdir finds what the study has done, and the other way round.
Research use; not a medical device.
"""

import shlex
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import config_flags

from jax_mrissl import __version__
from jax_mrissl.core import process_flags, processes
from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import choose_workdir

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The study: configs/study.py, and behind a colon its scale.'
)
flags.adopt_module_key_flags(process_flags)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go. Default: runs/NAME-DIGEST, from the config.'
)
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Only say what there is to do, how long it may take, what disk.'
)
_TUNED = flags.DEFINE_string(
    'tuned',
    None,
    'The search.json of `search`: settings that it chose, fold by fold. Tables and '
    'pages then go to tuned/ in the workdir.',
)
_RETRY_FAILED = flags.DEFINE_bool('retry_failed', False, 'Try again what failed.')


def main(argv: list[str]) -> None:
    """Runs the study of the flags."""
    del argv
    process_flags.start_processes()
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.stages.forecast import forecast_text
    from jax_mrissl.stages.study import TUNED, Study, run_study
    from jax_mrissl.stages.tuned import read_tuned
    from jax_mrissl.tasks.page import PAGE

    config = _CONFIG.value
    if 'study' not in config:
        raise UserError(
            'This config is of one experiment: use python -m jax_mrissl.main.'
        )
    workdir = choose_workdir(_WORKDIR.value, config.to_dict())
    logging.info('Results go to %s.', workdir)
    processes.expect_same([__version__, config.to_dict()], 'settings')
    processes.expect_shared(workdir)
    tuned = read_tuned(Path(_TUNED.value).expanduser()) if _TUNED.value else None
    if _DRY_RUN.value:
        text = processes.share(
            lambda: forecast_text(Study(config, workdir, tuned=tuned))
        )
        if processes.is_first():
            print(text)
        return
    flags_left = process_flags.without_process_flags(sys.argv[1:])
    command = ['python', '-m', 'jax_mrissl.study', *flags_left]
    text = run_study(
        config,
        workdir,
        command=shlex.join(command),
        retry_failed=_RETRY_FAILED.value,
        tuned=tuned,
    )
    if not processes.is_first():
        return
    results = workdir / TUNED if tuned else workdir
    print(
        f'\n{text}\nThe page: {results / PAGE}. All results: {workdir}. '
        'Research use; not a medical device.'
    )


if __name__ == '__main__':
    run_command(main, __doc__)
