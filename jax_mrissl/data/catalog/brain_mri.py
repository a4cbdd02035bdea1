"""Brain MRI without a common label: the pretraining set of the report, merged."""

from jax_mrissl.data.spec import DatasetSpec, HeaderSubject

BRAIN_MRI = DatasetSpec(
    name='brain_mri',
    title='Brain MRI, merged from several collections',
    source=(
        'Kaggle: "Brain Tumor Classification (MRI)" by Sartaj Bhuvaji (2020), "Brain '
        'MRI Images for Brain Tumor Detection" by Navoneel Chakrabarty (2019), and any '
        'DICOM series of the brain.'
    ),
    terms='As each collection says; neither Kaggle set names a source of its images.',
    layout="""\
one --raw_dir for each collection; folders of JPEG, PNG or DICOM files in any tree:
  Training/glioma_tumor/*.jpg  Testing/no_tumor/*.jpg ...
  yes/*.jpg  no/*.jpg
  any/tree/*.dcm""",
    classes=(
        'no_tumor',
        'glioma_tumor',
        'meningioma_tumor',
        'pituitary_tumor',
        'tumor',
    ),
    class_folders={'no': 'no_tumor', 'yes': 'tumor'},
    subject=HeaderSubject(),
    drop_twins=True,  # the collections share pictures, some of them re-encoded
    channels=1,  # a few files are tinted, by their maker's marks: gray by ITU-R 601
)
