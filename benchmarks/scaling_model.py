r"""A model of the time of a step on 8 to 4,096 chips, from measured pieces.

    python benchmarks/scaling_model.py --measured benchmarks/scaling.jsonl \
        --figure docs/scaling.svg

Reads what benchmarks/collectives.py wrote of the programs for a TPU (counts and bytes
of what is sent, FLOPs and bytes of memory of one chip's part) and published speeds of
chips and links; prints tables of predicted efficiency. docs/scaling.md says where these
are from, and what the model leaves out. Nothing is timed here.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

CHIPS = (8, 32, 128, 256, 512, 1024, 4096)
BATCH = 4096  # of the runs of one global batch
WIDTH = 128  # of SimCLR's projections
PASSES = 6  # of bfloat16 products, for one in float32


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of chip and what joins it to others.

    Attributes:
        name: for people.
        peak: bfloat16 operations a second.
        memory: bytes a second.
        most: chips that one such network joins.
        latency: seconds of a sum of few bytes over n chips.
        sum_time: seconds of a sum of so many bytes over n chips, but for its latency.
    """

    name: str
    peak: float
    memory: float
    most: int
    latency: Callable[[int], float]
    sum_time: Callable[[float, int], float]


def _torus(hop, link, dimensions):
    """Both directions of each ring at once; a hop to every other chip and back."""

    def latency(n):
        return dimensions * n ** (1 / dimensions) * hop

    def sum_time(size, n):
        return 2 * size * (n - 1) / n / (2 * link * dimensions)

    return latency, sum_time


def _h100_latency(n):
    """NCCL's own model of a tree: src/graph/tuning.cc, protocol LL, in microseconds."""
    inside, nodes = min(n, 8), max(n / 8, 1)
    hop = 0.52 * (1.8 if nodes > 1 else 1)
    return (4.4 + 2 * ((inside - 1) * hop + math.log2(nodes) * 5.0)) * 1e-6


def _h100_sum(size, n):
    """Scatter inside of a node, sum each eighth over the nodes, gather inside."""
    inside, nodes = min(n, 8), max(n / 8, 1)
    nvlink, network = 450e9, 47e9
    return (
        2 * size * (inside - 1) / inside / nvlink
        + 2 * size / inside * (nodes - 1) / nodes / network
    )


MACHINES = (
    Machine('TPU v5e', 197e12, 819e9, 256, *_torus(1e-6, 45e9, 2)),
    Machine('TPU v5p', 459e12, 2765e9, 6144, *_torus(1e-6, 90e9, 3)),
    Machine('H100', 989e12, 3350e9, 1 << 30, _h100_latency, _h100_sum),
)


def step(machine, facts, rows, chips, group=0):
    """Gives seconds of a step, by what they go into.

    Args:
        machine: the chips.
        facts: of the method's compiled step.
        rows: images on a chip.
        chips: how many there are.
        group: chips that share batch statistics, side by side; 0: all.
    """
    share = rows / facts['images_per_device']
    compute = max(
        share * facts['flops_per_image'] * facts['images_per_device'] / machine.peak,
        share * facts['bytes_accessed_per_device'] / machine.memory,
    )
    parts = {'compute': compute}
    if 'projections' in facts['carries'] and facts['method'] == 'simclr':
        # All pairs of 2 b rows here with 2 B everywhere; the measured step had few.
        pairs = (2 * rows) * (2 * rows * chips)
        products = 3 * 2 * pairs * WIDTH * PASSES / machine.peak
        # Written and read, forwards and backwards.
        parts['pairs'] = max(products, 4 * 4 * pairs / machine.memory)
    if chips == 1:
        return parts
    carried = facts['carries']
    sent = carried['gradients'][1]
    parts['gradients'] = machine.sum_time(sent, chips)
    big = sum(carried.get(name, [0, 0])[1] for name in ('D x D sum',))
    # A gather and a scatter of 2 B rows take half a sum each.
    gathered = 2 * rows * chips * WIDTH * 4 if 'pairs' in parts else 0
    parts['loss'] = machine.sum_time(big + gathered, chips)
    # The statistics of one layer wait for those of the layer before.
    count = sum(number for number, _ in facts['compiled'].values())
    near = min(group or chips, chips)
    # The loss's own, and all gradients at once; the compiler may have joined some.
    others = 1 + sum(
        number
        for what, (number, _) in carried.items()
        if what != 'gradients' and 'statistics' not in what
    )
    statistics = count - others if group else 0
    parts['latency'] = (count - statistics) * machine.latency(chips)
    parts['latency'] += statistics * machine.latency(near)
    return parts


def efficiency(machine, facts, rows, chips, group=0):
    """Gives which part of the time the chips do what one chip would do alone."""
    parts = step(machine, facts, rows, chips, group)
    return step(machine, facts, rows, 1)['compute'] / sum(parts.values()), parts


CASES = (
    ('64 images a chip', lambda n: 64, 0),
    ('512 images a chip', lambda n: 512, 0),
    ('64 images a chip, statistics of 8 chips each', lambda n: 64, 8),
    (f'a batch of {BATCH} images', lambda n: BATCH / n, 0),
)


def tables(measured):
    """Prints efficiency by machine, method and number of chips."""
    for title, rows_of, group in CASES:
        print(f'\n{title}; behind it what takes most besides the computing\n')
        print('| | ' + ' | '.join(f'{n:,}' for n in CHIPS) + ' |')
        print('|---|' + '---|' * len(CHIPS))
        for machine in MACHINES:
            for facts in measured:
                cells = []
                for n in CHIPS:
                    if n > machine.most:
                        cells.append('')
                        continue
                    share, parts = efficiency(machine, facts, rows_of(n), n, group)
                    rest = {k: v for k, v in parts.items() if k != 'compute'}
                    most = max(rest, key=rest.get)
                    cells.append(f'{100 * share:.0f} % {most}')
                name = f'{machine.name}, {facts["method"]}'
                print(f'| {name} | ' + ' | '.join(cells) + ' |')


def draw(measured, path):
    """Draws efficiency over chips, one panel for each machine."""
    import matplotlib

    matplotlib.use('svg')
    import matplotlib.pyplot as plt

    plt.rcParams.update({'svg.hashsalt': 'scaling', 'font.size': 8})
    figure, panels = plt.subplots(
        1, len(MACHINES), figsize=(8, 2.4), sharey=True, constrained_layout=True
    )
    for panel, machine in zip(panels, MACHINES, strict=True):
        chips = [n for n in CHIPS if n <= machine.most]
        for colour, facts in enumerate(measured):
            for style, rows_of in (('-', lambda n: 64), (':', lambda n: BATCH / n)):
                shares = [
                    100 * efficiency(machine, facts, rows_of(n), n)[0] for n in chips
                ]
                label = facts['method'] if style == '-' else None
                panel.plot(chips, shares, style, color=f'C{colour}', label=label)
        panel.set(xscale='log', title=machine.name, xlabel='chips', ylim=(0, 100))
        panel.set_xticks(chips, [f'{n}' for n in chips], rotation=45)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel('predicted efficiency, %')
    panels[0].legend()
    figure.savefig(path, metadata={'Date': None})


def pieces(path):
    """Gives what was read of the programs for a TPU, one for each method."""
    found = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [facts for facts in found if facts['target'] != 'CPU']


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--measured', default='benchmarks/scaling.jsonl')
    parser.add_argument('--figure', default='', help='write it here, as SVG')
    options = parser.parse_args()
    measured = pieces(options.measured)
    tables(measured)
    if options.figure:
        draw(measured, options.figure)


if __name__ == '__main__':
    main()
