"""What `bench` measured, as text."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 88
_PARTS = {
    'augmentation': 'augmentation',
    'networks': 'networks, forward and backward',
    'networks_forward': '  of it forward',
    'encoder': '  of it the encoder',
    'encoder_forward': '  of it the encoder, forward',
    'loss': 'loss, forward and backward',
    'optimizer': 'optimiser',
}


def bench_table(facts: Mapping[str, Any]) -> str:
    """Writes one measurement for a terminal, at most 88 columns wide.

    Args:
        facts: of `tasks.bench.measure`.
    """
    rate = facts['images_per_s']
    lines = [
        _title(facts),
        '',
        f'  {rate["median"]:.4g} images/s of {facts["views"]} views '
        f'({rate["low"]:.4g} to {rate["high"]:.4g}, {rate["count"]} blocks of '
        f'{facts["steps_per_block"]} steps)',
        f'  {_visible(rate)}',
        f'  compiled in {facts["compile_s"]:.1f} s, traced in {facts["trace_s"]:.1f} s',
        f'  {_memory(facts["memory"])}',
        f'  {_operations(facts)}',
        '',
        '  images held by     images/s    waits for input',
    ]
    for name, of in facts['inputs'].items():
        wait = of['input_wait']
        lines.append(
            f'  {name:14s} {of["images_per_s"]["median"]:12.4g}    '
            f'{100 * wait["median"]:.1f} % '
            f'({100 * wait["low"]:.1f} to {100 * wait["high"]:.1f})'
        )
    if facts['parts_s']:
        lines += ['', *_parts(facts)]
    return '\n'.join(lines) + '\n'


def sweep_table(found: Mapping[str, Any]) -> str:
    """Writes a sweep for a terminal, and why what of it is not measured.

    Args:
        found: of `tasks.bench_sweep.sweep`.
    """
    quantity = found['quantity']
    measured = [facts for facts in found['points'] if 'failed' not in facts]
    lines = [
        _title(measured[0], without=quantity),
        '',
        f'  {quantity:>8s}    images/s    ms a step    interval    peak memory    '
        'compiled in',
    ]
    for value, facts in zip(found['values'], found['points'], strict=True):
        if 'failed' in facts:
            text = f'  {value:8d}    not measured: {facts["failed"]}'
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent=' ' * 14)
            continue
        step = facts['step_s']
        lines.append(
            f'  {value:8d} {facts["images_per_s"]["median"]:11.4g} '
            f'{1e3 * step["median"]:12.4g} {100 * step["visible_change"]:9.0f} % '
            f'{facts["memory"]["peak_bytes"] / 1e9:11.2f} GB '
            f'{facts["compile_s"]:12.1f} s'
        )
    if found['growth'] is not None:
        lines.append(
            f'  A step grows as {quantity} to the power {found["growth"]:.2f}.'
        )
    return '\n'.join(lines) + '\n'


def _title(facts: Mapping[str, Any], without: str = '') -> str:
    sizes = {
        'pixels': f'{facts["pixels"]} pixels',
        'batch': f'batch {facts["batch"]}',
        'devices': f'{facts["devices"]} device(s)',
    }
    told = ', '.join(words for name, words in sizes.items() if name != without)
    return (
        f'{facts["method"]}, {facts["encoder"]}, {told}, {facts["dtype"]}, '
        f'{facts["device"]}\n'
        f'  images: {facts["dataset"]}, {facts["images"]} of {facts["canvas"]} pixels, '
        f'{facts["channels"]} channel(s)'
    )


def _visible(rate: Mapping[str, Any]) -> str:
    change = 100 * rate['visible_change']
    if change > 10:
        return (
            f'The blocks differ: a change of less than {change:.0f} % cannot be seen. '
            'More --blocks, or a quieter machine.'
        )
    return f'A change of {max(change, 0.1):.1f} % or more can be seen.'


def _memory(memory: Mapping[str, Any]) -> str:
    text = f'peak memory of the {memory["of"]} {memory["peak_bytes"] / 1e9:.2f} GB'
    if memory['temporaries_bytes'] is None:
        return text
    return f'{text}, of a step {memory["temporaries_bytes"] / 1e9:.2f} GB for a while'


def _operations(facts: Mapping[str, Any]) -> str:
    peak = f'{facts["product_flops_per_s"] / 1e9:.4g} GFLOP/s of a matrix product'
    if facts['flops'] is None:
        return f'operations of a step unknown; {peak}'
    return (
        f'{facts["flops"] / 1e9:.4g} GFLOP a step: '
        f'{100 * facts["share_of_product"]:.0f} % of {peak}'
    )


def _parts(facts: Mapping[str, Any]) -> Sequence[str]:
    step = facts['inputs'][facts['placement']]['resident_step_s']['median']
    lines = ['  parts of a step, each alone          ms    share']
    for name, words in _PARTS.items():
        seconds = facts['parts_s'][name]['median']
        lines.append(_part(words, seconds, step))
    lines.append(_part('rest (what is shared or fused)', facts['rest_s'], step))
    lines.append(_part('step, its input held', step, step))
    return lines


def _part(words: str, seconds: float, step: float) -> str:
    share = 100 * seconds / step if step else math.nan
    return f'  {words:32s} {1e3 * seconds:9.4g} {share:6.0f} %'
