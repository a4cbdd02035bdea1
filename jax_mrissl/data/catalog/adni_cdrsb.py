"""ADNI with the sum of boxes of the Clinical Dementia Rating, a number to regress."""

from jax_mrissl.data.spec import DatasetSpec, PathPattern, TableColumns

ADNI_CDRSB = DatasetSpec(
    name='adni_cdrsb',
    title='ADNI, CDR sum of boxes',
    source='ADNI: https://adni.loni.usc.edu (on application)',
    terms='ADNI data use agreement: not passed on, nobody identified, cited.',
    layout="""\
volumes (NIfTI, Analyze, DICOM) or slices, with the subject in the path, and a table of
one row for each subject:
  ADNI/002_S_0295/*.nii ...
  *.csv: subject (or PTID), CDR-SB (or CDRSB), and maybe site""",
    table=TableColumns(
        file=('subject', 'PTID', 'subject id'),
        key=PathPattern(r'(\d{3}_S_\d{4,5})'),
        group=(),
        label=(),
        target=('CDR-SB', 'cdr sum of boxes'),
        site=('site', 'siteid'),
        names=('*.csv',),
        missing=('-1', '-4'),  # ADNI's codes for 'not done'
    ),
    needs_table=True,
    subject=PathPattern(r'(\d{3}_S_\d{4,5})'),
    beside=('*.xml', '*.txt'),
    channels=1,
)
