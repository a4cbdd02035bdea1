r"""Runs an experiment: pretrain, finetune, evaluate; prints the table, writes the page.

    python -m jax_mrissl.main --config=configs/barlow_brain.py:demo

    python -m jax_mrissl.main --config=configs/barlow_brain.py \
        --config.data_dir=data --config.pretrain.epochs=50 --workdir=runs/mine

The page is report/index.html in the workdir: one file, for any browser, without a
network. --config.report.pictures=false leaves out all its pictures of subjects; those
of views, under stages/*/samples, stay.
Started again, the same command goes on where it stopped, and does nothing that is done.
SIGTERM saves first; the exit code is then 75 (start again), as after a lost process.
Research use; not a medical device.
"""

import shlex
import sys

from absl import flags, logging
from ml_collections import config_flags

from jax_mrissl import __version__
from jax_mrissl.core import process_flags, processes
from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import choose_workdir

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment: a file of configs/, and behind a colon its scale.'
)
flags.adopt_module_key_flags(process_flags)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Where results go. Default: runs/NAME-DIGEST, from the config.'
)


def main(argv: list[str]) -> None:
    """Runs the experiment of the flags."""
    del argv
    process_flags.start_processes()
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.stages.demo import prepare_simulated
    from jax_mrissl.stages.run import run_experiment
    from jax_mrissl.tasks.from_config import read_experiment
    from jax_mrissl.tasks.page import PAGE

    config = _CONFIG.value
    if 'study' in config:
        raise UserError('This config is of a study: use python -m jax_mrissl.study.')
    experiment = read_experiment(config)
    workdir = choose_workdir(_WORKDIR.value, config.to_dict())
    logging.info('Results go to %s.', workdir)
    processes.expect_same([__version__, config.to_dict()], 'settings')
    processes.expect_shared(workdir)
    processes.share(lambda: prepare_simulated(experiment))
    flags_left = process_flags.without_process_flags(sys.argv[1:])
    command = ['python', '-m', 'jax_mrissl.main', *flags_left]
    table = run_experiment(
        experiment, workdir, command=shlex.join(command), config=config.to_dict()
    )
    if not processes.is_first():
        return
    print(
        f'\n{table}\n\nThe page: {workdir / PAGE}. All results: {workdir}. '
        'Research use; not a medical device.'
    )


if __name__ == '__main__':
    run_command(main, __doc__)
