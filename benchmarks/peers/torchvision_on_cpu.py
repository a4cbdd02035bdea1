"""Lets torchvision's Python parts import beside a PyTorch without its operators.

A CPU build of PyTorch has no matching build of torchvision in every package index. The
transforms and networks of torchvision are Python alone, but importing them registers
shapes of compiled operators (detection, mostly), which must be declared first. Import
this before torchvision; where the compiled part is there, it does nothing.
"""

import importlib.util
from pathlib import Path

import torch

_BOXES = 'Tensor boxes, float scale, SymInt height, SymInt width'
_BACK = 'SymInt batch, SymInt channels, SymInt h, SymInt w'
_MANY = ', '.join(f'SymInt n{i}' for i in range(8))
_OPERATORS = (
    'nms(Tensor boxes, Tensor scores, float threshold) -> Tensor',
    'qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor',
    f'roi_align(Tensor x, {_BOXES}, int ratio, bool aligned) -> Tensor',
    f'_roi_align_backward(Tensor dy, {_BOXES}, {_BACK}, int ratio, bool aligned) '
    '-> Tensor',
    f'roi_pool(Tensor x, {_BOXES}) -> (Tensor, Tensor)',
    f'_roi_pool_backward(Tensor dy, Tensor boxes, Tensor argmax, float scale, '
    f'SymInt height, SymInt width, {_BACK}) -> Tensor',
    f'ps_roi_align(Tensor x, {_BOXES}, int ratio) -> (Tensor, Tensor)',
    f'_ps_roi_align_backward(Tensor dy, Tensor boxes, Tensor mapping, float scale, '
    f'SymInt height, SymInt width, int ratio, {_BACK}) -> Tensor',
    f'ps_roi_pool(Tensor x, {_BOXES}) -> (Tensor, Tensor)',
    f'_ps_roi_pool_backward(Tensor dy, Tensor boxes, Tensor mapping, float scale, '
    f'SymInt height, SymInt width, {_BACK}) -> Tensor',
    f'deform_conv2d(Tensor x, Tensor w, Tensor o, Tensor m, Tensor b, {_MANY}, '
    'bool use_mask) -> Tensor',
    f'_deform_conv2d_backward(Tensor dy, Tensor x, Tensor w, Tensor o, Tensor m, '
    f'Tensor b, {_MANY}, bool use_mask) -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
)


def _is_compiled() -> bool:
    home = Path(importlib.util.find_spec('torchvision').origin).parent
    found = [*home.glob('_C*.so'), *home.glob('_C*.pyd')]
    if not found:
        return False
    try:
        torch.ops.load_library(str(found[0]))
    except OSError:  # built for another PyTorch, such as one with CUDA
        return False
    return True


if not _is_compiled():
    LIBRARY = torch.library.Library('torchvision', 'DEF')
    for _operator in _OPERATORS:
        LIBRARY.define(_operator)
