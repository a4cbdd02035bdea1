"""The datasets that `prepare` knows."""

from jax_mrissl.core.errors import expect_known
from jax_mrissl.data.catalog.adni_cdrsb import ADNI_CDRSB
from jax_mrissl.data.catalog.alzheimer_mri import ALZHEIMER_MRI
from jax_mrissl.data.catalog.brain_mri import BRAIN_MRI
from jax_mrissl.data.catalog.brain_mri_masked import BRAIN_MRI_MASKED
from jax_mrissl.data.catalog.chest_xray import CHEST_XRAY
from jax_mrissl.data.catalog.ct import CT
from jax_mrissl.data.catalog.demo import DEMO, SMOKE
from jax_mrissl.data.catalog.folder import FOLDER
from jax_mrissl.data.catalog.oasis1 import OASIS1
from jax_mrissl.data.catalog.tiny_imagenet import TINY_IMAGENET
from jax_mrissl.data.spec import DatasetSpec

DATASETS: dict[str, DatasetSpec] = {
    'adni_cdrsb': ADNI_CDRSB,
    'alzheimer_mri': ALZHEIMER_MRI,
    'brain_mri': BRAIN_MRI,
    'brain_mri_masked': BRAIN_MRI_MASKED,
    'chest_xray': CHEST_XRAY,
    'ct': CT,
    'demo': DEMO,
    'folder': FOLDER,
    'oasis1': OASIS1,
    'smoke': SMOKE,
    'tiny_imagenet': TINY_IMAGENET,
}


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
