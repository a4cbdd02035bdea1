"""Weights in files of others: safetensors, and PyTorch's own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from jax_mrissl.core.errors import UserError
from jax_mrissl.models.torchvision import from_torchvision
from jax_mrissl.train.torch_file import (
    array_of,
    is_torch_file,
    read_torch_file,
    refuse_damaged,
)

_SAFETENSORS = {
    'BF16': ml_dtypes.bfloat16,
    'BOOL': np.bool_,
    'F16': np.float16,
    'F32': np.float32,
    'F64': np.float64,
    'I8': np.int8,
    'I16': np.int16,
    'I32': np.int32,
    'I64': np.int64,
    'U8': np.uint8,
}


def read_encoder_file(path: Path, like: Any) -> Any:
    """Reads an encoder from a file with torchvision's names.

    Args:
        path: of what `read_weights` reads.
        like: the encoder that is expected: `params` and `model_state`, each a tree.

    Returns: a tree as `like`, on the devices of `like`.

    Raises:
        UserError: the file cannot be read, or holds another encoder.
    """
    tensors = read_weights(path)
    try:
        return from_torchvision(tensors, like)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors or PyTorch file; its content decides which.

    A PyTorch file may hold a `state_dict`, or a dict that has one under 'state_dict',
    'model', 'encoder' or 'backbone'.

    Args:
        path: the file.

    Returns: arrays by name, read-only; bfloat16 is that of ml_dtypes.

    Raises:
        UserError: no such file, of another format, damaged, or it holds more than
            tensors.
    """
    if path.is_dir():
        raise UserError(f'{path} is a folder; a file of weights is expected.')
    if not path.is_file():
        raise UserError(f'There is no file {path}.')
    with open(path, 'rb') as file:
        start = file.read(16)
        file.seek(0)
        if not start:
            raise UserError(f'{path} is empty.')
        if is_torch_file(start):
            return read_torch_file(file, path)
        if start[8:9] == b'{':
            return _read_safetensors(file.read(), path)
    if start.startswith(b'version https://g'[:16]):
        raise UserError(
            f'{path} is a pointer of Git LFS, not the file itself: run git lfs pull.'
        )
    raise UserError(
        f'{path} is neither a safetensors file nor one of PyTorch (.pth, .pt, .bin). '
        'If it was downloaded, see whether it is a web page in truth.'
    )


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the texts that a safetensors file carries; {} of any other file."""
    try:
        with safetensors.safe_open(path, framework='np') as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError):
        return {}


def read_told(path: Path) -> dict[str, Any]:
    """Reads what `jax_mrissl.export` wrote of an encoder; {} of other files.

    Raises:
        UserError: it is not the JSON that it should be.
    """
    metadata = read_metadata(path)
    if not metadata.get('written_by', '').startswith('jax_mrissl '):
        return {}
    known = ('encoder', 'image_size', 'lineage', 'mean', 'std')
    try:
        return {key: json.loads(metadata[key]) for key in known if key in metadata}
    except json.JSONDecodeError as error:
        raise UserError(f'{path}: its metadata cannot be read ({error}).') from error


def encode_safetensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
    """Writes tensors as a safetensors file; the same bytes for the same input.

    Args:
        tensors: contiguous arrays by name.
        metadata: texts by name.
    """
    encoded = safetensors.numpy.save(dict(tensors), dict(metadata))
    # The library writes the metadata in an order of chance; a digest must not see it.
    end = 8 + int.from_bytes(encoded[:8], 'little')
    header = json.loads(encoded[8:end])
    header['__metadata__'] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, 'little') + text + encoded[end:]


def file_digest(path: Path) -> str:
    """Gives the SHA-256 of a file's content, as 64 hex digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _read_safetensors(content: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        refuse_damaged(path, str(error))
    tensors = {}
    for name, about in found:
        if about['dtype'] not in _SAFETENSORS:
            raise UserError(
                f'{path}: {name} is of type {about["dtype"]}, which is not read. '
                f'Known: {", ".join(_SAFETENSORS)}.'
            )
        values = array_of(about['data'], _SAFETENSORS[about['dtype']], 'little')
        tensors[name] = values.reshape(about['shape'])
    if not tensors:
        raise UserError(f'{path} holds no tensor.')
    return tensors
