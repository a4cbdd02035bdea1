"""The card of a prepared dataset: what it is, in numbers, sentences and pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mrissl.core.digest import digest
from jax_mrissl.data.inventory import RawFile
from jax_mrissl.data.item import Item
from jax_mrissl.data.planning import Plan
from jax_mrissl.data.repeats import DUPLICATE
from jax_mrissl.data.spec import DatasetSpec, FileRule, FirstOf, SubjectRule


def make_card(
    spec: DatasetSpec,
    plan: Plan,
    files: Sequence[RawFile],
    *,
    options: Mapping[str, Any],
    raw_digest: str,
    shards: Mapping[str, Sequence[Mapping[str, Any]]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Gathers what is known of a dataset; no name of a file or patient is in it.

    Args:
        spec: the declaration.
        plan: what became of every image.
        files: all raw files.
        options: all that decides about the records besides the raw files.
        raw_digest: the identity of the raw files.
        shards: facts of the shards of each split, in order.
        notes: further sentences.
    """
    kept = [item for item in plan.items if not item.reason]
    rejected = Counter(item.reason for item in plan.items if item.reason)
    facts = [facts for split in sorted(shards) for facts in shards[split]]
    records = {split: [f['sha256'] for f in shards[split]] for split in sorted(shards)}
    if plan.turned_gray:
        notes = [
            *notes,
            f'{plan.turned_gray} colour images are stored gray (ITU-R 601).',
        ]
    gap = None
    if plan.gap:
        between, within = plan.gap
        gap = {
            'greatest_correlation_between': between,
            'least_correlation_within': within,
            'width': round(within - between, 4),
        }
    return {
        'name': spec.name,
        'version': options['version'],
        'title': spec.title,
        'source': spec.source,
        'terms': spec.terms,
        'simulated': spec.simulated,
        'classes': list(spec.classes),
        'targets': list(spec.targets),
        'canvas': options['canvas'],
        'bits': options['bits'],
        'channels': plan.channels,
        'reading': {**reading_of(spec), 'folders': _folders(kept, files)},
        'counts': {
            **_count(spec, kept),
            'files': len(files),
            'splits': {s: _count(spec, plan.kept(s)) for s in plan.splits},
            'sources': {
                part: _count(spec, [i for i in kept if files[i.file].part == part])
                for part in sorted({file.part for file in files})
            },
            'duplicates': rejected.pop(DUPLICATE, 0),
            'rejected': dict(sorted(rejected.items())),
            'turned_gray': plan.turned_gray,
        },
        'sizes': _sizes(kept),
        'pixels': _moments(facts),
        'subjects': {'found': plan.subjects_by, 'gap': gap},
        'notes': list(notes),
        'options': dict(options),
        'raw_digest': raw_digest,
        'fingerprint': digest({'records': records, 'options': dict(options)}),
    }


def reading_of(spec: DatasetSpec) -> dict[str, Any]:
    """Gives how values become gray and subjects are told, as JSON.

    With it, and the canvas, other files can be read as those of this set were.
    """
    return {
        # Lists, as JSON gives them back.
        **{name: list(values) for name, values in vars(spec.intensity).items()},
        'modality': spec.modality,
        'subject': [rule.to_json() for rule in _rules_of_files(spec.subject)],
    }


def _rules_of_files(rule: SubjectRule) -> Sequence[FileRule]:
    """Gives the rules that tell the subject of any file, the first to ask first."""
    if isinstance(rule, FirstOf):
        return rule.rules
    return (rule,) if isinstance(rule, FileRule) else ()


def _folders(kept: Sequence[Item], files: Sequence[RawFile]) -> int | None:
    """Gives how many folders lie between the raw folder and each file; None: varies."""
    depths = {files[item.file].path.count('/') for item in kept}
    return depths.pop() if len(depths) == 1 else None


def card_text(card: Mapping[str, Any]) -> str:
    """Writes the card for people, in Markdown."""
    counts = card['counts']
    simulated = '**SIMULATED: no patient is in it.** ' if card['simulated'] else ''
    lines = [
        f'# {card["title"]}',
        '',
        f'`{card["name"]}` {card["version"]}. {simulated}Research use; not a medical '
        'device.',
        '',
        f'- Source: {card["source"]}',
        f'- Terms: {card["terms"]}',
        f'- Images: {counts["images"]:,} in {counts["groups"]:,} groups, from '
        f'{counts["files"]:,} files',
        f'- Stored: {card["canvas"]} x {card["canvas"]} pixels, {card["channels"]} '
        f'channel(s), {card["bits"]} bits; the longer side scaled to the canvas '
        '(bicubic, antialiased), centred on black',
        f'- Raw sizes: {_size_words(card["sizes"])}',
        f'- Pixel values inside the boxes, in [0, 1]: mean '
        f'{_numbers(card["pixels"]["mean"])}, standard deviation '
        f'{_numbers(card["pixels"]["std"])}',
        f'- {card["subjects"]["found"]}',
        *(f'- {note}' for note in card['notes']),
        f'- Fingerprint: `{card["fingerprint"]}`',
        '',
        '| part | images | groups | '
        + ' | '.join([*card['classes'], 'unlabelled'])
        + ' |',
        '|---' * (4 + len(card['classes'])) + '|',
    ]
    parts = {'all': counts}
    parts |= {f'split {name}': part for name, part in counts['splits'].items()}
    if len(counts['sources']) > 1:
        parts |= counts['sources']
    for name, part in parts.items():
        by_class = [part['classes'].get(c, 0) for c in [*card['classes'], 'unlabelled']]
        cells = [part['images'], part['groups'], *by_class]
        lines.append(f'| {name} | ' + ' | '.join(f'{c:,}' for c in cells) + ' |')
    lines += ['', 'Left out:', '', '| reason | images |', '|---|---|']
    left_out = {DUPLICATE: counts['duplicates'], **counts['rejected']}
    lines += [f'| {reason} | {count:,} |' for reason, count in left_out.items()]
    return '\n'.join(lines) + '\n'


def rejects_text(plan: Plan) -> str:
    """Writes rejects.csv: the count of each reason, and each file by its hash."""
    reasons = Counter(item.reason for item in plan.items if item.reason)
    lines = ['reason,count,file_id']
    for reason in sorted(reasons):
        for item in plan.items:
            if item.reason == reason:
                lines.append(f'"{reason}",{reasons[reason]},{item.file_id}')
    return '\n'.join(lines) + '\n'


def _count(spec: DatasetSpec, items: Sequence[Item]) -> dict[str, Any]:
    labels = Counter(
        spec.classes[item.label] if item.label >= 0 else 'unlabelled' for item in items
    )
    return {
        'images': len(items),
        'groups': len({item.group for item in items}),
        'classes': dict(sorted(labels.items())),
        'groups_by_class': {
            name: len({i.group for i in items if i.label == label})
            for label, name in enumerate(spec.classes)
            if labels[name]
        },
    }


def _sizes(kept: Sequence[Item]) -> dict[str, Any]:
    sizes = Counter((i.facts.height, i.facts.width) for i in kept if i.facts)
    heights, widths = ([s[axis] for s in sizes.elements()] for axis in (0, 1))
    return {
        'height': [min(heights), int(np.median(heights)), max(heights)],
        'width': [min(widths), int(np.median(widths)), max(widths)],
        'distinct': len(sizes),
    }


def _size_words(sizes: Mapping[str, Any]) -> str:
    if sizes['distinct'] == 1:
        return f'all {sizes["height"][0]} high, {sizes["width"][0]} wide'
    return ', '.join(
        f'{side} {sizes[side][0]} to {sizes[side][2]} (median {sizes[side][1]})'
        for side in ('height', 'width')
    )


def _moments(shards: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Gives mean and deviation per channel, of pixels in [0, 1] inside the boxes."""
    count = sum(facts['pixels'] for facts in shards)
    sums = np.sum([facts['sum'] for facts in shards], axis=0) / 255
    squares = np.sum([facts['sum_of_squares'] for facts in shards], axis=0) / 255**2
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return {
        'mean': [round(float(v), 6) for v in mean],
        'std': [round(float(v), 6) for v in deviation],
    }


def _numbers(values: Sequence[float]) -> str:
    return ', '.join(f'{value:.4f}' for value in values)
