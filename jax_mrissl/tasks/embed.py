"""The embeddings that an encoder gives of a prepared set, as a Parquet file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from jax_mrissl import __version__
from jax_mrissl.augment import build_policy
from jax_mrissl.core import processes
from jax_mrissl.core.build import build
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.progress import Progress
from jax_mrissl.data.catalog import advice
from jax_mrissl.data.pipeline import resident
from jax_mrissl.data.prepared import PreparedSet, open_prepared
from jax_mrissl.models import ENCODERS
from jax_mrissl.tasks.programs import RowProgram, channels_of, embedding
from jax_mrissl.tasks.trained import TrainedEncoder, open_trained
from jax_mrissl.train.parallel import MeshParallel

# Of decoded images that are put on the accelerator at once.
_BLOCK_BYTES = 256 * 2**20
_BATCH_SIZE = 256


def embed_dataset(
    checkpoint: Path,
    dataset: str,
    data_dir: str | Path,
    out: Path,
    *,
    split: str = 'all',
    image_size: int | None = None,
    encoder: str | None = None,
) -> str:
    """Writes the embeddings of a prepared set, whole or not at all.

    Args:
        checkpoint: a stage's folder, a folder of checkpoints, or a file of weights.
        dataset, split: of a prepared set.
        data_dir: where it is.
        out: the Parquet file, a row for each image; replaced if it is there.
        image_size: in pixels; None: as in training, else 128.
        encoder: the network of a file of weights; None: as it tells, else resnet18.

    Returns: what was written, for people.

    Raises:
        UserError: no such encoder or set, or they do not fit each other.
    """
    if out.suffix != '.parquet' or out.is_dir():
        raise UserError(f'--out is {out}; a file that ends with .parquet.')
    trained = open_trained(checkpoint, image_size, encoder)
    prepared = open_prepared(data_dir, dataset, split, advice=advice(dataset, data_dir))
    about = {
        'checkpoint': trained.lineage,
        'encoder': trained.section,
        'view': trained.view,
        'dataset': {
            'name': prepared.name,
            'split': split,
            'fingerprint': prepared.fingerprint,
            'classes': list(prepared.card['classes']),
            'simulated': prepared.card['simulated'],
        },
        'written_by': f'jax_mrissl {__version__}',
    }
    schema = pyarrow.schema(
        [
            ('file_id', pyarrow.string()),
            ('group', pyarrow.string()),
            ('label', pyarrow.int32()),
            ('position', pyarrow.float32()),
            ('embedding', pyarrow.list_(pyarrow.float32(), trained.features)),
        ],
        metadata={key: json.dumps(v, sort_keys=True) for key, v in about.items()},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f'.{out.name}.{os.getpid()}.tmp')
    done = 0
    try:
        with (
            pyarrow.parquet.ParquetWriter(temporary, schema) as writer,
            Progress(
                f'Embedding {prepared.name}', len(prepared), unit='images'
            ) as progress,
        ):
            for block in embed(trained, prepared):
                rows = slice(done, done + len(block))
                flat = pyarrow.array(np.ascontiguousarray(block, np.float32).ravel())
                columns = [
                    prepared.file_ids[rows],
                    prepared.groups[rows],
                    prepared.labels[rows],
                    prepared.positions[rows],
                    pyarrow.FixedSizeListArray.from_arrays(flat, trained.features),
                ]
                writer.write_table(pyarrow.table(columns, schema=schema))
                done += len(block)
                progress.advance(len(block))
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    simulated = 'SIMULATED. ' if prepared.card['simulated'] else ''
    return (
        f'{simulated}Written: {out}, {done:,} embeddings of {trained.features} numbers '
        f'({trained.section["name"]}, {trained.image_size} pixels, of {dataset}, split '
        f'{split}). Research use; not a medical device.'
    )


def embed(trained: TrainedEncoder, prepared: PreparedSet) -> Iterator[np.ndarray]:
    """Embeds a prepared set, block by block, so that it need not fit any memory.

    The network computes in float32, whatever it was trained in.

    Args:
        trained: the encoder.
        prepared: the images.

    Yields:
        Embeddings of the next rows, float32 [b, F]; together all rows in order.

    Raises:
        UserError: the encoder takes images of other channels.
    """
    policy = build_policy(trained.view, where='the view')
    height, width, channels = prepared.image_shape
    seen = channels_of(policy, prepared.image_shape)
    if seen != trained.channels:
        raise UserError(
            f'The encoder takes images of {trained.channels} channel(s); those of '
            f'{prepared.name} have {seen}.'
        )
    module = build(ENCODERS, trained.section, where='encoder').module()
    program = RowProgram(embedding(module), policy, _BATCH_SIZE)
    parallel = MeshParallel(processes.devices())
    params = parallel.replicate({'encoder': trained.params})
    model_state = parallel.replicate({'encoder': trained.model_state})
    # A colour image of 16 bits takes the most.
    block = max(_BATCH_SIZE, _BLOCK_BYTES // (2 * height * width * channels))
    for start in range(0, len(prepared), block):
        rows = np.arange(start, min(start + block, len(prepared)))
        source = parallel.replicate(resident(prepared.select(rows)))
        yield program(params, model_state, source, np.arange(len(rows)))
