"""What makes a folder of shards a dataset of TensorFlow Datasets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from jax_mrissl.data import records
from jax_mrissl.data.canvas import DTYPES


def features(channels: int, bits: int) -> tfds.features.FeaturesDict:
    """Declares what a record holds, for images of 1 or 3 channels, 8 or 16 bits."""
    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(
                shape=(None, None, channels), dtype=DTYPES[bits], encoding_format='png'
            ),
            # The stored values that are shown as black and as white.
            'window': tfds.features.Tensor(shape=(2,), dtype=np.float32),
            'box': tfds.features.Tensor(shape=(4,), dtype=np.int32),
            'label': tfds.features.Scalar(np.int64),
            'target': tfds.features.Scalar(np.float32),
            'group': tfds.features.Text(),
            'position': tfds.features.Scalar(np.float32),
            'site': tfds.features.Text(),
            'source': tfds.features.Text(),
            'file_id': tfds.features.Text(),
            'spacing': tfds.features.Tensor(shape=(2,), dtype=np.float32),
            'pixel_sha256': tfds.features.Text(),
        }
    )


def write_metadata(
    folder: Path,
    name: str,
    version: str,
    shards: Mapping[str, Sequence[Path]],
    *,
    channels: int,
    bits: int,
    description: str,
) -> None:
    """Writes features.json and dataset_info.json beside the shards of each split."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, filetype_suffix='array_record'
    )
    split_infos = []
    for split, paths in shards.items():
        facts = [records.read_facts(shard) for shard in paths]
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[f['count'] for f in facts],
                num_bytes=sum(f['bytes'] for f in facts),
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features(channels, bits),
        split_infos=split_infos,
        version=version,
        filename_template=template,
        check_data=False,
        description=description,
    )
