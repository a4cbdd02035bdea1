import io
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jax_mrissl.core.errors import UserError
from jax_mrissl.models import ENCODERS
from jax_mrissl.models.torchvision import to_torchvision
from jax_mrissl.train.weights import (
    encode_safetensors,
    file_digest,
    read_encoder_file,
    read_metadata,
    read_weights,
)

STORAGES = {
    'float32': 'FloatStorage',
    'float64': 'DoubleStorage',
    'float16': 'HalfStorage',
    'bfloat16': 'BFloat16Storage',
    'int64': 'LongStorage',
    'int32': 'IntStorage',
    'int16': 'ShortStorage',
    'int8': 'CharStorage',
    'uint8': 'ByteStorage',
    'bool': 'BoolStorage',
}
ZIP, LEGACY = 'zip', 'legacy'


class Storage:
    def __init__(self, values, count=None):
        self.values = np.asarray(values).ravel()
        self.count = self.values.size if count is None else count


class Tensor:
    """Pickles as PyTorch's does: by a function of torch._utils."""

    def __init__(self, storage, offset, size, stride, parameter=False):
        self.parts = storage, offset, size, stride
        self.parameter = parameter

    def __reduce__(self):
        utils = sys.modules['torch._utils']
        if self.parameter:
            plain = Tensor(*self.parts)
            return utils._rebuild_parameter, (plain, True, OrderedDict())
        return utils._rebuild_tensor_v2, (*self.parts, False, OrderedDict())


def tensor(values, **options):
    values = np.asarray(values)
    strides = [step // values.itemsize for step in values.strides]
    return Tensor(Storage(values), 0, values.shape, tuple(strides), **options)


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """Names as PyTorch has them, so that pickles record them; no PyTorch."""
    root, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')

    def named(module, name, made):
        made.__module__, made.__qualname__ = module.__name__, name
        setattr(module, name, made)

    for name in STORAGES.values():
        named(root, name, type(name, (), {}))
    for name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
        named(utils, name, types.FunctionType((lambda: 0).__code__, {}, name))
    monkeypatch.setitem(sys.modules, 'torch', root)
    monkeypatch.setitem(sys.modules, 'torch._utils', utils)
    return root


class Pickler(pickle.Pickler):
    def __init__(self, stream, legacy):
        super().__init__(stream, 2)
        self.legacy, self.storages = legacy, {}

    def persistent_id(self, made):
        if not isinstance(made, Storage):
            return None
        for key, had in self.storages.items():  # noqa: B007
            if had is made:
                break
        else:
            key = str(len(self.storages))
            self.storages[key] = made
        kind = getattr(sys.modules['torch'], STORAGES[str(made.values.dtype)])
        view = (None,) if self.legacy else ()
        return ('storage', kind, key, 'cpu', made.count, *view)


def saved(made, kind=ZIP, folder='archive', byteorder='little', compress=False):
    """The bytes that torch.save writes."""
    stream = io.BytesIO()
    pickler = Pickler(stream, kind == LEGACY)
    pickler.dump(made)
    storages = pickler.storages
    if kind == LEGACY:
        head = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}]
        parts = [*(pickle.dumps(x, 2) for x in head), stream.getvalue()]
        parts.append(pickle.dumps(list(storages), 2))
        for storage in storages.values():
            parts += [len(storage.values).to_bytes(8, 'little')]
            parts += [storage.values.tobytes()]
        return b''.join(parts)
    out = io.BytesIO()
    way = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, 'w', way) as archive:
        archive.writestr(f'{folder}/data.pkl', stream.getvalue())
        if byteorder:
            archive.writestr(f'{folder}/byteorder', byteorder)
        for key, storage in storages.items():
            values = storage.values
            if byteorder == 'big':
                values = values.view(f'u{values.itemsize}').byteswap()
            archive.writestr(f'{folder}/data/{key}', values.tobytes())
        archive.writestr(f'{folder}/version', '3\n')
    return out.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(content, name='file.pth'):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def every_type():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4)) * 50
    return {
        dtype: (values > 0) if dtype == 'bool' else values.astype(np.dtype(dtype))
        for dtype in STORAGES
        if dtype != 'uint8'
    } | {'uint8': np.abs(values).astype(np.uint8)}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


FORMATS = [
    dict(kind=LEGACY),
    dict(kind=ZIP),
    dict(kind=ZIP, folder='my model'),
    dict(kind=ZIP, byteorder=None),
    dict(kind=ZIP, byteorder='big'),
]


@pytest.mark.parametrize('how', FORMATS, ids=str)
def test_every_type_is_read_from_both_formats(write, how):
    values = every_type()
    state = OrderedDict((name, tensor(value)) for name, value in values.items())
    assert_same(read_weights(write(saved(state, **how))), values)


@pytest.mark.parametrize('kind', [ZIP, LEGACY])
def test_views_of_one_storage_are_read_as_views(write, kind):
    numbers = np.arange(24, dtype=np.float32)
    storage = Storage(numbers)
    state = {
        'rows': Tensor(storage, 0, (4, 6), (6, 1)),
        'columns': Tensor(storage, 0, (6, 4), (1, 6)),
        'middle': Tensor(storage, 7, (2, 3), (6, 2)),
        'last': Tensor(storage, 23, (), ()),
        'repeated': Tensor(storage, 3, (5,), (0,)),
        'none': Tensor(storage, 24, (0, 3), (3, 1)),
        'parameter': Tensor(storage, 1, (2,), (1,), parameter=True),
    }
    found = read_weights(write(saved(state, kind)))
    table = numbers.reshape(4, 6)
    assert_same(
        found,
        {
            'rows': table,
            'columns': table.T,
            'middle': table[1:3, 1::2],
            'last': np.float32(23),
            'repeated': np.full(5, 3, np.float32),
            'none': np.zeros((0, 3), np.float32),
            'parameter': np.array([1, 2], np.float32),
        },
    )
    assert not any(value.flags.writeable for value in found.values() if value.size)


def test_the_metadata_of_a_state_dict_is_dropped(write):
    state = OrderedDict(a=tensor(np.float32([1])))
    state._metadata = OrderedDict(version=1)  # as nn.Module.state_dict sets it
    assert_same(read_weights(write(saved(state))), {'a': np.float32([1])})


@pytest.mark.parametrize(
    'keys', [('state_dict',), ('model',), ('model', 'encoder'), ('backbone',)]
)
def test_a_nested_state_dict_is_found(write, keys):
    tree = {'a.weight': tensor(np.float32([1, 2]))}
    for key in reversed(keys):
        tree = {'epoch': 3, 'rate': 0.1, 'name': 'x', 'best': None, 'on': True} | {
            key: tree,
            'history': [(1, 2), {'k': tensor(np.float32([9]))}],
        }
    for kind in (ZIP, LEGACY):
        found = read_weights(write(saved(tree, kind)))
        assert_same(found, {'a.weight': np.float32([1, 2])})


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.pth', 'weights'])
def test_safetensors_are_known_by_their_content(write, name):
    values = {k: v for k, v in every_type().items() if k != 'bfloat16'}
    assert_same(read_weights(write(safetensors.numpy.save(values), name)), values)


def test_bfloat16_of_safetensors(write):
    data = np.array([1.5, -2], ml_dtypes.bfloat16)
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    content = len(header).to_bytes(8, 'little') + header + data.tobytes()
    assert_same(read_weights(write(content)), {'a': data})


def test_safetensors_of_the_same_content_are_the_same_bytes(write):
    tensors = {'b': np.arange(6.0).reshape(2, 3), 'a': np.ones(3, np.float16)}
    metadata = {key: f'ä {key}' for key in 'zyxwvu'}
    files = {encode_safetensors(tensors, metadata) for _ in range(20)}
    assert len(files) == 1
    path = write(*files)
    assert_same(read_weights(path), tensors)
    assert_same(safetensors.numpy.load_file(path), tensors)
    assert read_metadata(path) == metadata
    assert read_metadata(write(saved({'a': tensor(np.float32([1]))}), 'b')) == {}


def test_digest_is_sha256(write):
    # printf abc | sha256sum
    expected = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    assert file_digest(write(b'abc')) == expected


@pytest.mark.parametrize('kind', [ZIP, LEGACY, 'safetensors'])
def test_an_encoder_is_read_from_a_file(write, kind):
    rng = np.random.default_rng(0)
    module = ENCODERS['resnet_tiny']().module()
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32),
        jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image),
    )
    like = {
        'params': variables['params'],
        'model_state': {'batch_stats': variables['batch_stats']},
    }
    tensors = to_torchvision(variables)
    if kind == 'safetensors':
        content = encode_safetensors(tensors, {'format': 'pt'})
    else:
        named = {f'module.{k}': tensor(v) for k, v in tensors.items()}
        content = saved({'state_dict': named}, kind)
    found = read_encoder_file(write(content), like)
    jax.tree.map(np.testing.assert_array_equal, found, like)
    del tensors['conv1.weight']
    content = encode_safetensors(tensors, {})
    with pytest.raises(UserError, match=r'file\.pth: .*Missing: conv1\.weight'):
        read_encoder_file(write(content), like)


# Files that mean harm.


class Payload:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


PAYLOADS = [
    lambda mark: Payload(os.system, f'touch {mark}'),
    lambda mark: Payload(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: Payload(open, str(mark), 'w'),
    lambda mark: Payload(os.mkdir, str(mark)),
    lambda mark: Payload(getattr, Payload(__import__, 'os'), 'system'),
]


def in_format(content, kind):
    """Puts a pickle where a file's object is."""
    if kind == 'bare':
        return content
    if kind == LEGACY:
        whole = saved({}, LEGACY)
        return whole.replace(pickle.dumps({}, 2), content, 1)
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        archive.writestr('archive/data.pkl', content)
    return out.getvalue()


@pytest.mark.parametrize('kind', [ZIP, LEGACY, 'bare'])
@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('payload', PAYLOADS)
def test_code_in_a_pickle_does_not_run(write, tmp_path, payload, protocol, kind):
    mark = tmp_path / 'ran'
    content = pickle.dumps({'state_dict': payload(mark)}, protocol)
    path = write(in_format(content, kind))
    with pytest.raises(UserError, match=r'more than tensors .* is refused: .*safetens'):
        read_weights(path)
    assert not mark.exists()
    pickle.loads(content)  # the payload is one, read by pickle itself
    assert mark.exists() or payload is PAYLOADS[-1]


@pytest.mark.parametrize(
    'content',
    [
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v3\n.',
        b'\x80\x02ctorch\nload\n.',
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.x',
        b'\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R.',
        b'\x80\x02(X\x02\x00\x00\x00lsios\nsystem\n.',  # INST
        b'\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.',  # OBJ
        b'\x80\x02c__builtin__\nset\n]\x85R.',
        b'\x80\x04\x96\xff\xff\xff\xff\xff\x00\x00\x00.',  # BYTEARRAY8 of a petabyte
        b'\x80\x02}r\xff\xff\xff\x7f.',  # LONG_BINPUT, the two-billionth part
        # Attributes of the stand-ins cannot be set.
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00ak\x00sb.',
        b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.',
        b'\x80\x02ctorch\nFloatStorage\n)R.',
        b'\x80\x02ccollections\nOrderedDict\n}b.',
        b'\x80\x02X\x01\x00\x00\x00aQ.',  # a storage that is a text
    ],
)
@pytest.mark.parametrize('kind', [ZIP, LEGACY])
def test_crafted_pickles_are_refused(write, content, kind):
    with pytest.raises(UserError, match=r'more than tensors|damaged|holds no state_'):
        read_weights(write(in_format(content, kind)))


BIG = 2**40


@pytest.mark.parametrize('kind', [ZIP, LEGACY])
@pytest.mark.parametrize(
    'made',
    [
        lambda s: Tensor(s, 1, (2, 3), (3, 1)),  # one too far
        lambda s: Tensor(s, 7, (), ()),
        lambda s: Tensor(s, 0, (BIG,), (1,)),
        lambda s: Tensor(s, 0, (BIG,), (0,)),  # a terabyte out of one number
        lambda s: Tensor(s, 0, (2,), (BIG,)),
        lambda s: Tensor(s, 5, (2,), (-1,)),
        lambda s: Tensor(s, -1, (2,), (1,)),
        lambda s: Tensor(s, 0, (-1,), (1,)),
        lambda s: Tensor(s, 0, (0, BIG, BIG), (1, 1, 1)),
        lambda s: Tensor(s, 0, (2**70,), (1,)),
        lambda s: Tensor(s, 0, (1,) * 9, (1,) * 9),
        lambda s: Tensor(s, 0, (2, 3), (1,)),
        lambda s: Tensor(s, 0, (2.0,), (1,)),
        lambda s: Tensor(s, 0, 5, 5),
        lambda s: Tensor('no storage', 0, (1,), (1,)),
        lambda s: Tensor(Storage(s.values, count=BIG), 0, (1,), (1,)),
        lambda s: Tensor(Storage(s.values, count=5), 0, (1,), (1,)),
        lambda s: Tensor(Storage(s.values, count=-1), 0, (1,), (1,)),
    ],
)
def test_sizes_that_cannot_be_are_refused(write, made, kind):
    state = {'a': made(Storage(np.arange(6, dtype=np.float32)))}
    with pytest.raises(UserError, match=r'file\.pth is damaged'):
        read_weights(write(saved(state, kind)))


def test_a_compressed_archive_is_refused(write):
    zeros = tensor(np.zeros(10**6, np.float32))
    with pytest.raises(UserError, match='compressed'):
        read_weights(write(saved({'a': zeros}, compress=True)))


@pytest.mark.parametrize('kind', [ZIP, LEGACY, 'safetensors'])
def test_a_file_cut_or_changed_anywhere_gives_words_or_arrays(write, kind):
    """No other error, whatever the damage: the file may come from anywhere."""
    values = {'a.weight': np.arange(40.0).reshape(5, 8), 'b': np.array(3)}
    if kind == 'safetensors':
        whole = safetensors.numpy.save(values)
    else:
        whole = saved({k: tensor(v) for k, v in values.items()}, kind)
    for length in range(0, len(whole), 7):
        with pytest.raises(UserError):
            read_weights(write(whole[:length]))
    rng = np.random.default_rng(0)
    for _ in range(600):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        try:
            found = read_weights(write(bytes(changed)))
        except UserError:
            continue
        assert all(v.nbytes < 2**20 for v in found.values())


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'is empty'),
        (b'<!DOCTYPE html><html>', 'web page'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'\x89HDF\r\n\x1a\n' + bytes(20), 'neither a safetensors'),
        (pickle.dumps({'a': 1}, 2), 'not one of torch.save'),
        (b'\x20\x00\x00\x00\x00\x00\x00\x00{"a":', 'damaged'),
    ],
)
def test_other_files_are_answered_in_words(write, content, words):
    with pytest.raises(UserError, match=words):
        read_weights(write(content))


def test_files_that_are_not_there_are_answered_in_words(tmp_path, write):
    with pytest.raises(UserError, match='There is no file'):
        read_weights(tmp_path / 'none.pth')
    with pytest.raises(UserError, match='is a folder'):
        read_weights(tmp_path)
    archive = io.BytesIO()
    np.savez(archive, a=np.ones(2))
    with pytest.raises(UserError, match=r'not of PyTorch: it has no data\.pkl'):
        read_weights(write(archive.getvalue(), 'a.npz'))


@pytest.mark.parametrize(
    ('made', 'words'),
    [
        ({}, 'an empty dict'),
        ({'epoch': 1, 'loss': 0.5}, 'a dict with epoch, loss'),
        ({'a': 'text', 'model': [1]}, 'a dict with a, model'),
        ([1, 2], 'found list'),
        ({'optimizer': {'x': 1}}, 'a dict with optimizer'),
    ],
)
def test_what_holds_no_state_dict_says_what_it_holds(write, made, words):
    for kind in (ZIP, LEGACY):
        with pytest.raises(UserError, match=words):
            read_weights(write(saved(made, kind)))
