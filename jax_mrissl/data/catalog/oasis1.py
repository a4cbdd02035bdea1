"""OASIS-1 by session, with the Clinical Dementia Rating of its own table."""

from jax_mrissl.data.catalog.alzheimer_mri import ALZHEIMER_MRI
from jax_mrissl.data.spec import DatasetSpec, PathPattern, TableColumns

OASIS1 = DatasetSpec(
    name='oasis1',
    title='OASIS-1, cross-sectional T1 MRI',
    source='OASIS-1: https://sites.wustl.edu/oasisbrains',
    terms='OASIS data use agreement: research, to be cited, no attempt to identify.',
    layout="""\
one volume (NIfTI, or Analyze .hdr with .img) or some slices of each session, with the
session in its name, and the table:
  OAS1_0001_MR1*.nii.gz or OAS1_0001_MR1*_t88_masked_gfc.hdr ...
  oasis_cross-sectional.csv: ID, ..., CDR (empty: young, unlabelled)""",
    classes=ALZHEIMER_MRI.classes,
    targets=ALZHEIMER_MRI.targets,
    table=TableColumns(
        file=('ID',),
        key=PathPattern(r'(OAS1_\d{4}_MR\d)'),
        group=(),
        label=(),
        target=('CDR',),
        names=('oasis_cross-sectional*.csv',),
    ),
    needs_table=True,
    subject=PathPattern(r'(OAS1_\d{4})'),
    beside=('*.xlsx', '*.txt', '*.xml'),
    channels=1,
)
