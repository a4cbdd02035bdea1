"""Decoders of DICOM's JPEG family, by imagecodecs: all of them under free licences.

pydicom's own choice for these, pylibjpeg-libjpeg, is GPL.
"""

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner

_LABEL = 'imagecodecs'
# pydicom's protocol of plug-ins asks for this name: what each syntax needs.
DECODER_DEPENDENCIES = {
    uid.JPEGExtended12Bit: ('imagecodecs',),
    uid.JPEGLossless: ('imagecodecs',),
    uid.JPEGLosslessSV1: ('imagecodecs',),
    uid.JPEGLSLossless: ('imagecodecs',),
    uid.JPEGLSNearLossless: ('imagecodecs',),
}


def is_available(syntax: str) -> bool:
    """Says whether a transfer syntax is decoded here; pydicom asks."""
    return syntax in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decodes one frame, as pydicom's plug-ins do; colour comes by pixel.

    Raises:
        ValueError: the frame's size is not what the header says.
    """
    syntax = runner.transfer_syntax
    values: np.ndarray
    if syntax in (uid.JPEGLSLossless, uid.JPEGLSNearLossless):
        values = imagecodecs.jpegls_decode(source)
    elif syntax == uid.JPEGExtended12Bit:
        # As Pillow's decoder for pydicom: YBR is not converted by the codec.
        values = imagecodecs.jpeg8_decode(source)
        if values.ndim == 3:
            runner.set_option('photometric_interpretation', 'RGB')
    else:
        values = imagecodecs.jpegsof3_decode(source)
    expected = (runner.rows, runner.columns)
    if values.shape[:2] != expected:
        raise ValueError(f'a frame of {values.shape}, not {expected}')
    runner.set_option('bits_allocated', 8 * values.dtype.itemsize)
    if values.ndim == 3:
        runner.set_option('planar_configuration', 0)
    return values.astype(values.dtype.newbyteorder('<')).tobytes()


def register() -> None:
    """Makes pydicom use these decoders; any number of times."""
    for syntax in DECODER_DEPENDENCIES:
        decoder = get_decoder(syntax)
        if _LABEL not in decoder.available_plugins:
            decoder.add_plugin(_LABEL, (__name__, 'decode_frame'))
