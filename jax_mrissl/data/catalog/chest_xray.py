"""Chest radiographs, with the findings of NIH ChestX-ray14 where its table is there."""

from jax_mrissl.data.spec import (
    DatasetSpec,
    FirstOf,
    HeaderSubject,
    Intensity,
    PathPattern,
    TableColumns,
)

CHEST_XRAY = DatasetSpec(
    name='chest_xray',
    title='Chest radiographs',
    source=(
        'NIH ChestX-ray14: https://nihcc.app.box.com/v/ChestXray-NIHCC; or any chest '
        'radiographs in PNG, JPEG or DICOM.'
    ),
    terms='NIH Clinical Center: free use; asks to be named and its paper to be cited.',
    layout="""\
  images*/00000001_000.png ... or DICOM files, in any tree
  Data_Entry_2017.csv (optional): Image Index, Finding Labels, Patient ID""",
    classes=(
        *('No Finding', 'Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema'),
        *('Effusion', 'Emphysema', 'Fibrosis', 'Hernia', 'Infiltration', 'Mass'),
        *('Nodule', 'Pleural_Thickening', 'Pneumonia', 'Pneumothorax'),
    ),
    table=TableColumns(
        file=('Image Index',),
        group=('Patient ID',),
        label=('Finding Labels',),
        several='|',
        names=('Data_Entry_2017*.csv', 'png_labels.csv', '*labels*.csv'),
    ),
    # The number before '_' is NIH's Patient ID, with zeros before it.
    subject=FirstOf((HeaderSubject(), PathPattern(r'(?:^|/)0*([^/_]+)_[^/]*$'))),
    modality='DX',
    intensity=Intensity(windowed=('CR', 'DX')),
    beside=('*.txt', '*.pdf', 'bbox_list_2017.csv'),
    channels=1,
)
