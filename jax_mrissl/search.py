r"""Searches hyper-parameters of pretraining, as hard for every arm of a study.

    python -m jax_mrissl.search --config=configs/study.py --config.data_dir=data \
        --config.search.trials=16 --workdir=runs/study
    python -m jax_mrissl.study --config=configs/study.py --config.data_dir=data \
        --workdir=runs/study --tuned=runs/study/search.json

A trial pretrains with other settings and fits linear probes; each fold chooses by its
own validation subjects, and test folds are never read. What is searched, and between
which values, is in the config's section `search`. Start the command as often as you
like, on all machines that share the disk; killed and started again it goes on where it
stopped. It writes search.md and search.json. It needs Optuna:

    pip install -e '.[search]'

Research use; not a medical device.
"""

from absl import flags, logging
from ml_collections import config_flags

from jax_mrissl.core.command import run_command
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import choose_workdir

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The study: configs/study.py, and behind a colon its scale.'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, "The study's. Default: runs/NAME-DIGEST, from the config."
)
_STORAGE = flags.DEFINE_string(
    'storage',
    '',
    'What keeps the trials: a file, or a database (sqlite:///FILE, '
    'postgresql://USER@HOST/NAME). Default: a file in the workdir.',
)
_RETRY_FAILED = flags.DEFINE_bool('retry_failed', False, 'Try again what failed.')


def main(argv: list[str]) -> None:
    """Runs the search of the flags."""
    del argv
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.stages.search import run_search

    config = _CONFIG.value
    if 'study' not in config:
        raise UserError('This config is of one experiment: give configs/study.py.')
    workdir = choose_workdir(_WORKDIR.value, config.to_dict())
    logging.info('Results go to %s.', workdir)
    text = run_search(
        config, workdir, storage=_STORAGE.value, retry_failed=_RETRY_FAILED.value
    )
    print(
        f'\n{text}\nAll of it: {workdir / "search.json"}, which is for '
        '`study --tuned`. Research use; not a medical device.'
    )


if __name__ == '__main__':
    run_command(main, __doc__)
