"""CT of any part of the body, for pretraining."""

from jax_mrissl.data.spec import (
    DatasetSpec,
    FirstOf,
    HeaderSubject,
    Intensity,
    PathPattern,
)

CT = DatasetSpec(
    name='ct',
    version='1.0.1',
    title='CT slices',
    source=(
        'Any collection of The Cancer Imaging Archive, as CPTAC, C4KC-KiTS, '
        'MIDRC-RICORD or TCGA: https://www.cancerimagingarchive.net'
    ),
    terms='As each collection says, most CC BY, some CC BY-NC; TCIA asks to be cited.',
    layout="""\
one --raw_dir for each collection; DICOM series or NIfTI volumes in any tree:
  PATIENT/STUDY/SERIES/1-001.dcm ...
  case_00000/imaging.nii.gz ...
(segmentation.nii.gz, *_seg.nii.gz, *_mask.nii.gz and the like are no images)""",
    subject=FirstOf((HeaderSubject(), PathPattern(r'(case_\d+)'))),
    modality='CT',
    intensity=Intensity(hounsfield=('soft',)),
    skip_localizers=True,
    beside=(
        *('license*', 'metadata.csv', '*.txt'),
        # Segmentations: a volume of their numbers looks like no CT.
        *('segmentation*.nii*', '*_segmentation.nii*', '*_seg.nii*', '*-seg.nii*'),
        *('*_mask.nii*', '*-mask.nii*', '*_label.nii*', '*_labels.nii*'),
    ),
    channels='as found',
)
