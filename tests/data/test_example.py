"""Messages of examples, against those that TFDS itself writes and reads."""

import dataclasses
import io

import numpy as np
import pytest
from tensorflow_datasets.core import example_parser, example_serializer

from jax_mrissl.data import records
from jax_mrissl.data.canvas import Encoded
from jax_mrissl.data.example import decode_example, encode_example
from jax_mrissl.data.tfds_format import features

ROW = records.Row(
    file='', frame=0, windows=(), levels=(), label=3, target=0.5, group='g' * 32,
    position=-2.5, site='', source='Zürich', file_id='f' * 32, pixel_sha256='0' * 64,
)  # fmt: skip
IMAGE = Encoded(
    png=bytes(range(256)) * 70,  # its length takes three bytes
    channels=1,
    windows=(),
    window=(0.0, 255.0),
    box=(0, 12, 160, 136),
    spacing_mm=(np.nan, 1.25),
    moments={},
)


def by_tfds(row, image):
    """Writes the same record as TFDS does, with its protobuf library."""
    declared = features(1, 8)
    example = {
        'image': io.BytesIO(image.png),
        'window': np.array(image.window, np.float32),
        'box': np.array(image.box, np.int32),
        'label': row.label,
        'target': np.float32(row.target),
        'group': row.group,
        'position': np.float32(row.position),
        'site': row.site,
        'source': row.source,
        'file_id': row.file_id,
        'spacing': np.array(image.spacing_mm, np.float32),
        'pixel_sha256': row.pixel_sha256,
    }
    serializer = example_serializer.ExampleSerializer(declared.get_serialized_info())
    message = serializer.get_tf_example(declared.encode_example(example))
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize('label', [-1, 0, 127, 128, 300])
@pytest.mark.parametrize('target', [float('nan'), -0.0, 3.5])
def test_records_are_byte_for_byte_those_of_tfds(label, target):
    fields = dict(zip(ROW.__dataclass_fields__, ROW.fields(), strict=True))
    row = records.Row(**{**fields, 'label': label, 'target': target})
    assert records._message(row, IMAGE) == by_tfds(row, IMAGE)


def test_tfds_parses_every_feature():
    record = records._message(ROW, IMAGE)
    info = features(1, 8).get_serialized_info()
    parsed = example_parser.ExampleParserNp(info).parse_example(record)
    assert parsed['image'] == IMAGE.png
    assert parsed['source'].decode() == 'Zürich' and parsed['label'] == 3
    np.testing.assert_array_equal(parsed['box'], IMAGE.box)
    np.testing.assert_array_equal(parsed['spacing'], np.float32(IMAGE.spacing_mm))


@pytest.mark.parametrize('label', [-1, 300])
def test_what_tfds_writes_is_read(label):
    row = dataclasses.replace(ROW, label=label)
    record = by_tfds(row, IMAGE)
    parsed = example_parser.ExampleParserNp(
        features(1, 8).get_serialized_info()
    ).parse_example(record)
    read = decode_example(record, parsed)
    assert read.keys() == parsed.keys()
    for name, value in parsed.items():
        if isinstance(read[name], bytes):
            assert read[name] == value
        else:
            np.testing.assert_array_equal(read[name].reshape(np.shape(value)), value)
            assert read[name].dtype.kind == np.asarray(value).dtype.kind
    assert decode_example(record, ('box',)).keys() == {'box'}


def test_integers_beyond_32_bits_and_their_complements():
    # Varints by hand: seven bits a byte, the lowest first.
    one = encode_example({'a': np.array([1 << 35, -1])})
    values = bytes([128, 128, 128, 128, 128, 1]) + bytes([255] * 9 + [1])
    feature = bytes([3 << 3 | 2, len(values) + 2, 10, len(values)]) + values
    entry = b'\x0a\x01a\x12' + bytes([len(feature)]) + feature
    assert one == bytes([10, len(entry) + 2, 10, len(entry)]) + entry
    np.testing.assert_array_equal(decode_example(one, ('a',))['a'], [1 << 35, -1])
