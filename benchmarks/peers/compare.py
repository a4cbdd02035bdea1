r"""Runs contestants in turn over the same images, and prints medians and ratios.

    python benchmarks/peers/compare.py --folder=DIR --data_dir=data --name=mine \
        --peer_python=/path/to/peers/bin/python --methods=barlow,simclr,swav

DIR is a folder of folders of images; --name is the same, prepared:

    python -m jax_mrissl.prepare --dataset=folder --name=mine --raw_dir=DIR \
        --group=image --canvas=96 --data_dir=data

Each contestant is a process that stands still while another runs (SIGSTOP, its workers
too), so that each has the machine for itself: A, B, A, B, ... Beside the clock, the CPU
time of each is counted, which other work on the machine changes less.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_TICKS = os.sysconf('SC_CLK_TCK')
# What jax_mrissl sets for itself (core/runtime.py), for the peer, too: it gains by it.
# The contestant `lightly_plain` goes without.
_KEEP_FREED_MEMORY = {
    'MALLOC_ARENA_MAX': '1',
    'MALLOC_MMAP_MAX_': '0',
    'MALLOC_TRIM_THRESHOLD_': str(2**31 - 1),
    'MALLOC_TOP_PAD_': str(64 * 2**20),
}


class Contestant:
    """A process of `worker.serve`, stopped except while it runs a block."""

    def __init__(self, command, environment):
        self._process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.facts = self._read()['ready']
        self._signal(signal.SIGSTOP)

    def block(self, steps):
        """Runs steps; gives images/s and CPU seconds per image."""
        self._signal(signal.SIGCONT)
        before = self._cpu_seconds()
        self._process.stdin.write(f'{steps}\n')
        self._process.stdin.flush()
        found = self._read()
        cpu = self._cpu_seconds() - before
        self._signal(signal.SIGSTOP)
        return found['images'] / found['seconds'], cpu / found['images']

    def end(self):
        """Ends the process and its workers."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _read(self):
        for line in self._process.stdout:
            if line.startswith(('{"ready"', '{"seconds"')):
                return json.loads(line)
            print(line, end='', file=sys.stderr)  # what a library has to say
        raise RuntimeError(f'{self._process.args} ended before it was done.')

    def _signal(self, number):
        os.killpg(self._process.pid, number)

    def _cpu_seconds(self):
        """Adds up user and system time of the process and its workers (Linux)."""
        ticks = 0
        for stat in Path('/proc').glob('[0-9]*/stat'):
            try:
                fields = stat.read_text().rpartition(')')[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(fields[2]) == self._process.pid:  # its process group
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS


def commands(options, method):
    """Gives the command of each contestant, by name."""
    ours = [
        sys.executable,
        str(HERE / 'ours.py'),
        f'--config={HERE.parents[1]}/configs/{method}_brain.py:report',
        f'--config.data_dir={options.data_dir}',
        f'--config.pretrain.data.name={options.name}',
        f'--config.pretrain.image_size={options.pixels}',
        f'--config.pretrain.batch_size={options.batch}',
        *options.ours,
    ]
    shared = [
        f'--folder={options.folder}',
        f'--method={method}',
        f'--pixels={options.pixels}',
        f'--batch={options.batch}',
    ]
    lightly = [
        options.peer_python,
        str(HERE / 'lightly_pipeline.py'),
        *shared,
        f'--workers={options.workers}',
    ]
    stable = [options.stable_python, str(HERE / 'stable_pretraining_jax.py'), *shared]
    known = {
        'jax_mrissl': ours,
        'lightly': lightly,
        'lightly_plain': lightly,
        'stable_pretraining': stable,
    }
    return {name: known[name] for name in options.contestants.split(',')}


def compare(options, method):
    """Measures the contestants in turn; gives their facts and blocks."""
    contestants = {}
    try:
        for name, command in commands(options, method).items():
            kept = {} if name == 'lightly_plain' else _KEEP_FREED_MEMORY
            contestants[name] = Contestant(command, kept)
        blocks = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, contestant in contestants.items():
                blocks[name].append(contestant.block(options.steps))
        return {
            name: {
                'facts': contestants[name].facts,
                'images_per_s': [rate for rate, _ in blocks[name]],
                'cpu_ms_per_image': [1e3 * cpu for _, cpu in blocks[name]],
            }
            for name in contestants
        }
    finally:
        for contestant in contestants.values():
            contestant.end()


def summary(method, found):
    """Writes medians and the ratios round by round, of the first to each other."""
    first = next(iter(found))
    lines = [f'{method}:']
    for name, of in found.items():
        rates, cpu = of['images_per_s'], of['cpu_ms_per_image']
        pairs = zip(found[first]['images_per_s'], rates, strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        cpus = zip(cpu, found[first]['cpu_ms_per_image'], strict=True)
        cpu_ratios = [theirs / mine for theirs, mine in cpus]
        lines.append(
            f'  {name:18s} {statistics.median(rates):7.1f} images/s '
            f'({min(rates):.1f}-{max(rates):.1f}), '
            f'{statistics.median(cpu):6.1f} ms of CPU an image'
            + (
                ''
                if name == first
                else f'; {first} is {statistics.median(ratios):.2f} x as fast '
                f'({min(ratios):.2f}-{max(ratios):.2f}), by CPU time '
                f'{statistics.median(cpu_ratios):.2f} x'
            )
        )
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', required=True, help='of folders of images')
    parser.add_argument('--data_dir', required=True, help='of prepared datasets')
    parser.add_argument('--name', required=True, help='of the same images, prepared')
    parser.add_argument('--peer_python', default=sys.executable)
    parser.add_argument('--stable_python', default=sys.executable)
    parser.add_argument('--methods', default='barlow,simclr,swav')
    parser.add_argument('--contestants', default='jax_mrissl,lightly')
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--workers', type=int, default=2, help='of the peer')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=5, help='of a block')
    parser.add_argument('--json', help='a file for all that was measured')
    parser.add_argument('ours', nargs='*', help='more flags of ours, behind --')
    options = parser.parse_args()
    found = {}
    for method in options.methods.split(','):
        found[method] = compare(options, method)
        print(summary(method, found[method]), flush=True)
    if options.json:
        record = {
            'pixels': options.pixels,
            'batch': options.batch,
            'cpus': os.cpu_count(),
            'machine': platform.machine(),
            'methods': found,
        }
        Path(options.json).write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
