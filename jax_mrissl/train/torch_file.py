"""PyTorch's files of weights, read without running what is in them.

A PyTorch file is a pickle, and a pickle is a program. What reads it here knows the few
functions that a tensor is made by, puts inert ones in their place, and refuses the file
if it asks for any other; no name in it is ever imported.

Source: torch/serialization.py and torch/_utils.py for the two formats (the zip archive
of torch 1.6 and later, and the one before).
"""

import dataclasses
import errno
import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import ml_dtypes
import numpy as np

from jax_mrissl.core.errors import UserError

# Where a checkpoint keeps its state_dict, in the order of trying.
_NESTED = ('state_dict', 'model', 'encoder', 'backbone')
_DEEPEST = 3
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# The pickle of a network holds names and shapes: a ResNet50's is 30 kB. What is longer
# ends too early.
_LARGEST_PICKLE = 64 * 2**20
_MOST_AXES = 8  # of a tensor; a network has four or five
_LONGEST_OF_EMPTY = 2**20  # an axis of a tensor without elements

_STORAGES = {
    'BFloat16Storage': ml_dtypes.bfloat16,
    'BoolStorage': np.bool_,
    'ByteStorage': np.uint8,
    'CharStorage': np.int8,
    'DoubleStorage': np.float64,
    'FloatStorage': np.float32,
    'HalfStorage': np.float16,
    'IntStorage': np.int32,
    'LongStorage': np.int64,
    'ShortStorage': np.int16,
}
_ZIP, _PICKLE = b'PK\x03\x04', b'\x80'


def is_torch_file(start: bytes) -> bool:
    """Says whether a file that starts so can be one of PyTorch."""
    return start.startswith((_ZIP, _PICKLE))


def read_torch_file(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that torch.save wrote, of either format.

    Args:
        file: open at its start.
        path: of the file, for messages.

    Returns: arrays by name, read-only; bfloat16 is that of ml_dtypes.

    Raises:
        UserError: damaged, or it holds more than tensors.
    """
    start = file.read(len(_ZIP))
    file.seek(0)
    read = _read_zip if start == _ZIP else _read_legacy
    try:
        return _state_dict(read(file, path), path)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        UnicodeDecodeError,
        EOFError,
    ) as error:
        refuse_damaged(path, str(error) or 'it ends too early')
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        refuse_damaged(path, 'its parts lie outside')  # an archive with wrong offsets


def array_of(data: bytes | bytearray, dtype: Any, order: str) -> np.ndarray:
    """Gives the elements of `data`, in the byte order of this machine.

    Args:
        data: bytes of a flat array.
        dtype: of its elements.
        order: 'little' or 'big', of the bytes.
    """
    dtype = np.dtype(dtype)
    if dtype == np.bool_:
        return np.frombuffer(data, np.uint8) != 0  # any other byte is no bool
    raw = np.frombuffer(data, f'{"<" if order == "little" else ">"}u{dtype.itemsize}')
    return raw.astype(f'u{dtype.itemsize}', copy=False).view(dtype)


def refuse_damaged(path: Path, why: str) -> NoReturn:
    """Raises the UserError of a file that cannot be read; `why` is a short phrase."""
    raise UserError(
        f'{path} is damaged or not what it seems ({why}). Fetch or save it again.'
    )


# What the pickle is made of.


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A flat array that is elsewhere in the file, by its key."""

    key: str
    dtype: Any
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; sizes and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    """An OrderedDict of the file; attributes that it carries are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class _Inert:
    """Stands for a function or a type of the file; its state cannot be set.

    Args:
        call: what it does when the pickle calls it; None: it is only a token.
        dtype: of the elements, where it stands for a type of storage.
    """

    __slots__ = ('_call', 'dtype')

    def __init__(self, call: Callable[..., Any] | None, dtype: Any = None):
        self._call, self.dtype = call, dtype

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            raise pickle.UnpicklingError('a type is called')
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError('a function is changed')


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: object
) -> _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2; what follows is for gradients."""
    counts = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(type(n) is int for n in counts):
        raise pickle.UnpicklingError('a tensor is made of something else')
    if (
        len(size) != len(stride)
        or len(size) > _MOST_AXES
        or min(counts) < 0
        or max(counts) > sys.maxsize
    ):
        raise pickle.UnpicklingError('a tensor has sizes that cannot be')
    return _Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: object) -> _Tensor:
    """Stands for torch._utils._rebuild_parameter."""
    if not isinstance(tensor, _Tensor):
        raise pickle.UnpicklingError('a parameter is made of something else')
    return tensor


class _NotTensors(Exception):
    """The pickle asks for what a file of weights does not need."""


# What torch.save writes for a state_dict, by protocols 2 to 5. Left out is above all
# what makes objects in other ways than calling, and what allocates before it reads.
_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK MEMOIZE
    BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID
    """.split()  # noqa: SIM905, a list of 41 literals would not be read
)


class _Unpickler(pickle.Unpickler):
    """Reads a pickle that knows no functions but those that make tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """Gives the stand-in of a name; refuses all that have none."""
        known = {
            ('collections', 'OrderedDict'): _Dict,
            ('torch._utils', '_rebuild_tensor_v2'): _Inert(_rebuild_tensor),
            ('torch._utils', '_rebuild_parameter'): _Inert(_rebuild_parameter),
        }
        if (module, name) in known:
            return known[module, name]
        if module == 'torch' and name in _STORAGES:
            return _Inert(None, _STORAGES[name])
        raise _NotTensors(f'{module}.{name}')

    def persistent_load(self, pid: Any) -> _Storage:
        """Gives the storage that a tensor's data is in; nothing is read yet."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage':
            raise pickle.UnpicklingError('a storage is described in an unknown way')
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, _Inert) or kind.dtype is None:
            raise pickle.UnpicklingError('a storage is of an unknown type')
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError('a storage is described in an unknown way')
        if any(part is not None for part in view):
            raise pickle.UnpicklingError('a storage is part of another')
        return _Storage(key, kind.dtype, count)


def _unpickle(file: BinaryIO, path: Path) -> Any:
    """Reads one pickle, and leaves the file behind it."""
    start = file.tell()
    # From memory: a length that a pickle claims is then never allocated before read.
    content = file.read(_LARGEST_PICKLE)
    try:
        named = ''
        operations = pickletools.genops(stream := io.BytesIO(content))
        for count, (opcode, argument, _) in enumerate(operations, 1):
            if opcode.name == 'GLOBAL':
                named = str(argument).replace(' ', '.')
            if opcode.name not in _OPCODES:
                made = f' after {named}' if named else ''
                raise _NotTensors(f'the pickle instruction {opcode.name}{made}')
            # Parts are numbered as they come, and the reader's list of them is as
            # long as the largest number.
            if opcode.name == 'LONG_BINPUT' and int(argument or 0) > count:
                raise pickle.UnpicklingError('it numbers its parts absurdly')
        file.seek(start + stream.tell())
        return _Unpickler(io.BytesIO(content), encoding='utf-8').load()
    except _NotTensors as error:
        raise UserError(
            f'{path} holds more than tensors ({error}) and is refused: reading that '
            'could run any code. Save a plain state_dict in PyTorch, '
            'torch.save(model.state_dict(), FILE), or a safetensors file.'
        ) from error
    # A damaged pickle can fail in any of these ways, none of them ours.
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        refuse_damaged(path, str(error))


# The two formats: a tree, and how to read a storage.


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """What a PyTorch file holds.

    Attributes:
        tree: the pickled object, with `_Tensor` for tensors.
        read: gives a storage's elements; each storage is read once.
    """

    tree: Any
    read: Callable[[_Storage], np.ndarray]


def _read_zip(file: BinaryIO, path: Path) -> _Loaded:
    archive = zipfile.ZipFile(file)
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.split('/')[1:] == ['data.pkl']]
    if len(pickles) != 1:
        raise UserError(
            f'{path} is a zip archive, but not of PyTorch: it has no data.pkl.'
        )
    [main] = pickles
    folder = main.partition('/')[0]
    budget = file.seek(0, io.SEEK_END)

    def content(name: str) -> bytes:
        """Reads an entry; all together cannot be more than the file is long."""
        nonlocal budget
        if name not in entries:
            refuse_damaged(path, f'{name} is missing in the archive')
        info = entries[name]
        # Torch never compresses, nor does it encrypt.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            refuse_damaged(path, f'{name} is compressed')
        budget -= info.file_size
        if budget < 0:
            refuse_damaged(path, 'its entries are longer than itself')
        return archive.read(info)

    order = 'little'
    if f'{folder}/byteorder' in entries:
        order = content(f'{folder}/byteorder').decode('ascii', 'replace')
        if order not in ('little', 'big'):
            refuse_damaged(path, f'its byte order is {order!r}')
    tree = _unpickle(io.BytesIO(content(main)), path)
    read: dict[str, tuple[_Storage, np.ndarray]] = {}

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted.key not in read:
            data = content(f'{folder}/data/{wanted.key}')
            read[wanted.key] = wanted, _elements(wanted, data, order, path)
        return _same(wanted, *read[wanted.key], path)

    return _Loaded(tree, storage)


def _read_legacy(file: BinaryIO, path: Path) -> _Loaded:
    if _unpickle(file, path) != _LEGACY_MAGIC:
        raise UserError(
            f'{path} is a pickle, but not one of torch.save. Save a plain state_dict '
            'in PyTorch, torch.save(model.state_dict(), FILE), or a safetensors file.'
        )
    if _unpickle(file, path) != _LEGACY_PROTOCOL:
        refuse_damaged(path, 'its protocol is unknown')
    _unpickle(file, path)  # the machine that wrote it; storages are little-endian
    tree = _unpickle(file, path)
    keys = _unpickle(file, path)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        refuse_damaged(path, 'its list of storages is none')
    # A storage's length in bytes follows from its type, which only its tensors tell.
    storages = {t.storage.key: t.storage for t in _tensors(tree)}
    file_size = path.stat().st_size
    read: dict[str, tuple[_Storage, np.ndarray]] = {}
    for key in keys:
        if key not in storages:
            refuse_damaged(path, 'it has a storage that no tensor uses')
        wanted = storages[key]
        count = int.from_bytes(file.read(8), 'little', signed=True)
        size = wanted.count * np.dtype(wanted.dtype).itemsize
        if count != wanted.count or size > file_size - file.tell():
            refuse_damaged(path, f'storage {key} is shorter than its tensors')
        read[key] = wanted, _elements(wanted, file.read(size), 'little', path)

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted.key not in read:
            refuse_damaged(path, f'storage {wanted.key} is missing')
        return _same(wanted, *read[wanted.key], path)

    return _Loaded(tree, storage)


def _tensors(tree: Any) -> list[_Tensor]:
    """Finds all tensors in dicts, lists and tuples; each container is seen once."""
    found, seen, waiting = [], set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Tensor):
            found.append(node)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            waiting += node.values() if isinstance(node, dict) else node
    return found


def _state_dict(loaded: _Loaded, path: Path) -> dict[str, np.ndarray]:
    tree = loaded.tree
    for _ in range(_DEEPEST):
        if not isinstance(tree, Mapping):
            break
        if tree and all(isinstance(value, _Tensor) for value in tree.values()):
            return {str(k): _array(t, loaded.read, path) for k, t in tree.items()}
        inner = [tree[k] for k in _NESTED if isinstance(tree.get(k), Mapping)]
        if not inner:
            break
        tree = inner[0]
    held = 'a single tensor' if isinstance(tree, _Tensor) else type(tree).__name__
    if isinstance(tree, Mapping):
        names = [str(name)[:40] for name in tree]
        held = f'a dict with {", ".join(names[:8])}' if names else 'an empty dict'
        held += f' and {len(names) - 8} more' if len(names) > 8 else ''
    raise UserError(
        f'{path} holds no state_dict, that is, a dict of tensors alone, nor one under '
        f'{", ".join(map(repr, _NESTED))}; found {held}.'
    )


def _array(
    tensor: _Tensor, read: Callable[[_Storage], np.ndarray], path: Path
) -> np.ndarray:
    """Gives the view that a tensor is; nothing is copied, so nothing can grow."""
    values = read(tensor.storage)
    if 0 in tensor.size and max(tensor.size) <= _LONGEST_OF_EMPTY:
        return np.zeros(tensor.size, values.dtype)
    steps = zip(tensor.size, tensor.stride, strict=True)
    last = tensor.offset + sum((length - 1) * step for length, step in steps)
    # A stride of 0 repeats elements; a network has no use for more than are stored.
    if last >= len(values) or not 0 < math.prod(tensor.size) <= len(values):
        refuse_damaged(path, 'a tensor reaches beyond its storage')
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.size,
        [step * values.itemsize for step in tensor.stride],
        writeable=False,
    )


def _elements(storage: _Storage, data: bytes, order: str, path: Path) -> np.ndarray:
    if len(data) != storage.count * np.dtype(storage.dtype).itemsize:
        refuse_damaged(path, f'storage {storage.key} has another length than it should')
    return array_of(data, storage.dtype, order)


def _same(wanted: _Storage, had: _Storage, values: np.ndarray, path: Path) -> Any:
    if wanted != had:
        refuse_damaged(path, f'storage {wanted.key} is described in two ways')
    return values
