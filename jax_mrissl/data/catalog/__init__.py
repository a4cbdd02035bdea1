"""The datasets that `prepare` knows: all declarations in the files of this folder."""

import importlib
import pkgutil

from jax_mrissl.core.errors import expect_known
from jax_mrissl.data.spec import DatasetSpec


def _declared() -> dict[str, DatasetSpec]:
    found: dict[str, DatasetSpec] = {}
    for file in pkgutil.iter_modules(__path__, f'{__name__}.'):
        for value in vars(importlib.import_module(file.name)).values():
            if isinstance(value, DatasetSpec):
                # A declaration may build on that of another file, and import it.
                same = found.setdefault(value.name, value) is value
                assert same, f'{file.name}: {value.name} is declared twice'
    return dict(sorted(found.items()))


DATASETS = _declared()


def find(name: str) -> DatasetSpec:
    """Gives the declaration of a dataset.

    Raises:
        UserError: unknown, with the nearest known name.
    """
    expect_known(name, DATASETS, '--dataset')
    return DATASETS[name]


def advice(name: str, data_dir: object) -> str:
    """Tells how to get a dataset and prepare it: source, terms, layout, command."""
    if name not in DATASETS:  # one's own, under a name of one's own
        return (
            'Prepare it: python -m jax_mrissl.prepare --dataset=folder '
            f'--name={name} --raw_dir=DIR --data_dir={data_dir}'
        )
    spec = DATASETS[name]
    raw = '' if spec.simulated else ' --raw_dir=DIR'
    layout = spec.layout.replace('\n', '\n    ')
    return (
        f'  source: {spec.source}\n'
        f'  terms: {spec.terms}\n'
        f'  layout of the raw folder:\n    {layout}\n'
        f'  command: python -m jax_mrissl.prepare --dataset={name}{raw} '
        f'--data_dir={data_dir}'
    )
