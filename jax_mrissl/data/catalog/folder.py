"""One's own images; what the folders and names mean is said by flags."""

from jax_mrissl.data.spec import (
    DatasetSpec,
    HeaderSubject,
    Intensity,
    PathPattern,
    TableColumns,
)

FOLDER = DatasetSpec(
    name='folder',
    title='Own images',
    source='Your own files.',
    terms='As you agreed with their owner.',
    layout="""\
JPEG, PNG, TIFF, DICOM, NIfTI or Analyze files in any tree of folders. Say what they
mean:
  --classes=benign,malignant   folders of these names, at any depth, are the classes
  --group='(sub-\\d+)'          the subject is this part of the path; or --group=2: the
                               second folder level; else PatientID, or each image
  --table=facts.csv            columns file, and any of group, label, target, site;
                               NA, none, null, nan and . mean that it is not known""",
    subject=HeaderSubject(),
    # Arbitrary units of MRI ask for percentiles; these have a proposed view.
    intensity=Intensity(windowed=('CR', 'DX', 'MG')),
    table=TableColumns(),
    masks=PathPattern(r'^(.+)_mask\.[\w.]+$'),
)
