"""Natural images, small: what pretraining on anything but medicine gives."""

from jax_mrissl.data.spec import DatasetSpec, PathPattern, TableColumns

TINY_IMAGENET = DatasetSpec(
    name='tiny_imagenet',
    title='Tiny ImageNet',
    source='Stanford CS231N: http://cs231n.stanford.edu/tiny-imagenet-200.zip',
    terms='As ImageNet: non-commercial research and education (image-net.org).',
    layout="""\
tiny-imagenet-200 as unpacked, all 200 classes or some of them:
  train/n01443537/images/*.JPEG ...
  val/images/*.JPEG  val/val_annotations.txt
  words.txt (optional: what the classes are called)""",
    classes_from=PathPattern(r'(?:^|/)(n\d{8})/'),
    titles_file='words.txt',
    table=TableColumns(
        header=('file', 'label'), group=(), names=('val_annotations.txt',)
    ),
    splits=('train', 'val', 'test'),
    landmarks=('train/n*', 'val/val_annotations.txt'),
    beside=('wnids.txt', 'words.txt', 'n*_boxes.txt'),
    channels=3,  # one in fifty is gray
)
