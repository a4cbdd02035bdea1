r"""Measures how fast pretraining is here: from stored images to updated weights.

    python -m jax_mrissl.bench --config=configs/barlow_brain.py --config.data_dir=data

    python -m jax_mrissl.bench --config=configs/barlow_brain.py \
        --also=configs/simclr_brain.py --also=configs/swav_brain.py \
        --config.pretrain.image_size=64 --json=bench.json

    python -m jax_mrissl.bench --config=configs/barlow_brain.py --sweep=batch
    python -m jax_mrissl.bench --config=configs/barlow_brain.py --sweep=pixels:64,96,128

The steps are those of `main`, with the input that it has; nothing is trained. If the
dataset is not prepared, random images take its place, in memory. Rates are medians of
blocks, with an interval; a change that is smaller than it says cannot be seen. To
measure several devices on a CPU: JAX_NUM_CPU_DEVICES=4 (they share its cores).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from jax_mrissl.core.command import config_file, run_command
from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.core.run_dir import write_json

if TYPE_CHECKING:
    from jax_mrissl.tasks.bench import Effort

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The experiment: a file of configs/, and behind a colon its scale.'
)
_ALSO = flags.DEFINE_multi_string(
    'also', [], 'Another experiment, with the same --config.FIELD flags.'
)
_SWEEP = flags.DEFINE_string(
    'sweep',
    '',
    'How the cost grows: batch, pixels or devices; values behind a colon: batch:32,64.',
)
_PLACEMENTS = flags.DEFINE_list(
    'placements',
    [],
    'Where images are held, each measured: device, host, stream. Default: as main.',
)
_JSON = flags.DEFINE_string('json', None, 'A file for all that was measured.')
_BLOCKS = flags.DEFINE_integer(
    'blocks', 9, 'How often everything is measured, in turn.', lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    'seconds', 1.0, 'The least length of a block of steps.', lower_bound=0.0
)
_PARTS = flags.DEFINE_bool('parts', True, 'Measure the parts of a step alone, too.')
_CANVAS = flags.DEFINE_integer(
    'canvas', 160, 'Of random images: height and width, in pixels.', lower_bound=8
)


def main(argv: list[str]) -> None:
    """Measures what the flags say, and prints it."""
    del argv
    import jax

    # A program that is found on disk would have been compiled in no time.
    jax.config.update('jax_enable_compilation_cache', False)
    # Imported late, so that --help and a typo are answered at once.
    from jax_mrissl.data.pipeline import PLACEMENTS
    from jax_mrissl.report.bench_table import bench_table, sweep_table
    from jax_mrissl.tasks.bench import Effort

    for placement in _PLACEMENTS.value:
        expect_known(placement, PLACEMENTS[1:], '--placements')
    effort = Effort(
        blocks=_BLOCKS.value,
        block_s=_SECONDS.value,
        placements=cast(Any, tuple(_PLACEMENTS.value)),
        parts=_PARTS.value and not _SWEEP.value,
    )
    found = []
    for config in [_CONFIG.value, *map(_with_overrides, _ALSO.value)]:
        facts = _measure(config, effort)
        found.append(facts)
        print(sweep_table(facts) if _SWEEP.value else bench_table(facts), flush=True)
    if _JSON.value:
        write_json(Path(_JSON.value).expanduser(), found)


def _measure(config: ConfigDict, effort: 'Effort') -> Any:
    """Measures the last pretraining stage of a config."""
    from jax_mrissl.tasks.bench import measure
    from jax_mrissl.tasks.bench_sweep import images_of, sweep
    from jax_mrissl.tasks.from_config import read_experiment

    if 'study' in config:
        raise UserError('This config is of a study: give one of an experiment.')
    experiment = read_experiment(config)
    if not experiment.chain:
        raise UserError(f'{experiment.name} pretrains nothing: nothing to measure.')
    plan, common = experiment.chain[-1], experiment.common
    quantity, _, values = _SWEEP.value.partition(':')
    if quantity:
        try:
            chosen = [int(value) for value in values.split(',')] if values else []
        except ValueError as error:
            raise UserError(f'--sweep={_SWEEP.value}: {error}.') from error
        return sweep(plan, common, effort, quantity, chosen, canvas=_CANVAS.value)
    prepared = images_of(plan, common, canvas=_CANVAS.value)
    return measure(plan, common, prepared, effort)


def _with_overrides(name: str) -> ConfigDict:
    """Loads another config, with the --config.FIELD flags that the first one has."""
    import importlib.util

    path, _, variant = config_file(name).partition(':')
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    overrides = config_flags.get_override_values(flags.FLAGS['config'])
    try:
        config.update_from_flattened_dict(overrides)
    except (AttributeError, KeyError, TypeError) as error:
        given = json.dumps(overrides, default=str)
        raise UserError(f'{name} has no such field, of {given}: {error}') from error
    logging.info('%s, with %d changed fields.', config.name, len(overrides))
    return config


if __name__ == '__main__':
    run_command(main, __doc__)
