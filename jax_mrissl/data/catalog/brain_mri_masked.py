"""Brain MRI in which what is not brain is black, and slices that come with a mask."""

from jax_mrissl.data.spec import DatasetSpec, FirstOf, HeaderSubject, PathPattern

BRAIN_MRI_MASKED = DatasetSpec(
    name='brain_mri_masked',
    title='Brain MRI with masks',
    source=(
        'Kaggle: "LGG MRI Segmentation" by Mateusz Buda, '
        'https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation (TCIA '
        'TCGA-LGG); OASIS-1 (https://sites.wustl.edu/oasisbrains), its volumes '
        '*_masked_gfc; and any skull-stripped volumes.'
    ),
    terms=(
        'LGG: CC BY-NC-SA 4.0; TCIA asks to be cited. OASIS: its data use agreement: '
        'no attempt to identify.'
    ),
    layout="""\
one --raw_dir for each collection; in any tree:
  kaggle_3m/TCGA_CS_4941_19960909/*_1.tif, *_1_mask.tif (left out: it is no image)
  OAS1_0001_MR1*.hdr with .img, *.nii, *.nii.gz, or slices *.jpg""",
    subject=FirstOf(
        (PathPattern(r'(TCGA_[A-Z\d]{2}_[A-Z\d]{4}|OAS\d_\d{4})'), HeaderSubject())
    ),
    position=PathPattern(r'_(\d+)\.tif'),
    masks=PathPattern(r'^(.+)_mask\.[\w.]+$'),
    beside=('*.csv', 'readme*'),
    # LGG keeps three sequences as colours; gray by ITU-R 601 is mostly its FLAIR.
    channels=1,
)
