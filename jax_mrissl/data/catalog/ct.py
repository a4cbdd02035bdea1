"""CT of any part of the body, for pretraining."""

from jax_mrissl.data.spec import DatasetSpec, HeaderSubject, Intensity

CT = DatasetSpec(
    name='ct',
    title='CT slices',
    source=(
        'Any collection of The Cancer Imaging Archive, as CPTAC, C4KC-KiTS, '
        'MIDRC-RICORD or TCGA: https://www.cancerimagingarchive.net'
    ),
    terms='As each collection says, most CC BY, some CC BY-NC; TCIA asks to be cited.',
    layout="""\
one --raw_dir for each collection; DICOM series or NIfTI volumes in any tree:
  PATIENT/STUDY/SERIES/1-001.dcm ...
  case_00000/imaging.nii.gz""",
    subject=HeaderSubject(),
    modality='CT',
    intensity=Intensity(hounsfield=('soft',)),
    skip_localizers=True,
    beside=('license*', 'metadata.csv', '*.txt'),
    channels='as found',
)
