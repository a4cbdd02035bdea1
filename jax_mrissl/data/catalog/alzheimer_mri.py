"""The labelled set: 200 subjects of OASIS-1, four severities, 32 slices each."""

from jax_mrissl.data.spec import DatasetSpec, NeighbouringSlices

ALZHEIMER_MRI = DatasetSpec(
    name='alzheimer_mri',
    title="Alzheimer's Dataset (4 class of images)",
    source=(
        'Kaggle: "Alzheimer\'s Dataset (4 class of images)" by Sarvesh Dubey, '
        'https://www.kaggle.com/datasets/tourist55/alzheimers-dataset-4-class-of-images'
    ),
    terms='ODbL 1.0 on Kaggle; its images are of OASIS-1, whose terms apply too.',
    layout="""\
train/NonDemented/*.jpg       test/NonDemented/*.jpg
train/VeryMildDemented/*.jpg  test/VeryMildDemented/*.jpg
train/MildDemented/*.jpg      test/MildDemented/*.jpg
train/ModerateDemented/*.jpg  test/ModerateDemented/*.jpg
or the four class folders alone""",
    classes=('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented'),
    targets=(0.0, 0.5, 1.0, 2.0),  # Clinical Dementia Rating
    splits=('train', 'test'),
    needs_class_folders=True,
    subject=NeighbouringSlices(names='kaggle_alzheimer'),
    channels=1,
)
