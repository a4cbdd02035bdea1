r"""What a pretraining step sends between devices: counts and bytes, by what it carries.

    python benchmarks/collectives.py --devices 2 4 8 16 32 64 128 256 --out FILE.json
    python benchmarks/collectives.py --topology v5e:4x4 v5e:16x16 --pixels 128 --rows 64

The real training step of each method on ResNet18 is compiled for so many CPU devices,
in a process of its own each, and its HLO is read; nothing is run. With --topology it
is compiled for chips of a TPU, by the TPU's compiler, without one: `pip install
libtpu`, of the version that jax asks for under its extra `tpu`, is enough. One JSON
object for each program: collectives of the compiled program; bytes by what they carry;
FLOPs and memory of one device by XLA's own account.
"""

import argparse
import collections
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

METHODS = ('simclr', 'barlow', 'swav')
# Of the resident images; the program does not depend on how many there are.
IMAGES, CANVAS = 1000, 160


class Images:
    """All that building a step asks of a prepared dataset."""

    name = 'brain_mri'
    image_shape = (CANVAS, CANVAS, 1)
    groups = ('one subject',)

    def __init__(self, count):
        self._count = count

    def __len__(self):
        return self._count


def lower_step(method, rows, pixels, dtype, topology, settings):
    """Traces the step for the devices that there are, or for those of a topology.

    Returns: the lowered step, how many devices it is for, and its count of parameters.
    """
    import jax
    import numpy as np
    from jax.experimental import topologies

    from jax_mrissl.data.pipeline import Resident, Rows
    from jax_mrissl.tasks.from_config import read_experiment
    from jax_mrissl.tasks.pretrain import set_up
    from jax_mrissl.tasks.programs import training_program
    from jax_mrissl.train.parallel import MeshParallel

    devices = tuple(jax.devices())
    if topology:
        devices = tuple(topologies.get_topology_desc(topology, 'tpu').devices)
    batch = rows * len(devices)
    config = importlib.import_module(f'jax_mrissl.configs.{method}_brain').get_config()
    config.compute = dtype
    config.pretrain.update(image_size=pixels, batch_size=batch)
    config.update_from_flattened_dict(settings)
    experiment = read_experiment(config)
    images = Images(100 * batch)
    [plan] = experiment.chain
    training = set_up(plan, experiment.common, images)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: training.initial(images, key), key)

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    source = Resident(
        image=array(np.uint8, IMAGES, CANVAS, CANVAS, 1),
        box=array(np.int32, IMAGES, 4),
        label=array(np.int32, IMAGES),
        group=array(np.int32, IMAGES),
    )
    feed = Rows(row=array(np.int32, batch), mask=array(np.float32, batch))
    program = training_program(
        training.objective,
        training.optimizer,
        MeshParallel(devices),
        chunks=plan.chunks,
    )
    lowered = program.function.lower(state, source, feed, key)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    return lowered, len(devices), parameters


def carries(kind, part):
    """Says in words what an array carries, from where it stands in the step."""
    backward = 'transpose(' in part.source
    if re.search(r'bn\d|_bn', part.source):
        return 'batch statistics, ' + ('backward' if backward else 'forward')
    if not part.shape:
        return 'scalars'
    if 'jvp(' not in part.source:
        return 'gradients'
    if kind in ('all-gather', 'reduce-scatter'):
        return 'projections' + (', backward' if backward else '')
    if len(part.shape) == 2 and part.shape[0] == part.shape[1] > 1:
        return 'D x D sum'
    return 'vectors of the loss'


def measure(options):
    """Lowers and compiles one step; gives facts."""
    from jax_mrissl.train.collectives import read_collectives

    settings = dict(item.split('=', 1) for item in options.set)
    settings = {name: json.loads(value) for name, value in settings.items()}
    began = time.monotonic()
    lowered, devices, parameters = lower_step(
        options.method[0],
        options.rows,
        options.pixels,
        options.dtype,
        options.topology[0] if options.topology else '',
        settings,
    )
    facts = {
        'method': options.method[0],
        'devices': devices,
        'target': options.topology[0] if options.topology else 'CPU',
        'images_per_device': options.rows,
        'pixels': options.pixels,
        'dtype': options.dtype,
        'settings': settings,
        'parameters': parameters,
    }
    compiled = lowered.compile()
    if options.keep_text:
        Path(options.keep_text).write_text(compiled.as_text())
    found = read_collectives(compiled.as_text())
    counts = collections.Counter(c.kind for c in found)
    memory = compiled.memory_analysis()
    return facts | {
        'compiled': {
            kind: [count, sum(c.bytes for c in found if c.kind == kind)]
            for kind, count in counts.items()
        },
        'carries': by_what(found),
        'flops_per_image': compiled.cost_analysis()['flops'] / options.rows,
        'bytes_accessed_per_device': compiled.cost_analysis()['bytes accessed'],
        'temporary_bytes': memory.temp_size_in_bytes if memory else None,
        'seconds': round(time.monotonic() - began),
    }


def by_what(found):
    """Sums arrays up by what they carry: words to [arrays, bytes]."""
    sums = collections.defaultdict(lambda: [0, 0])
    for collective in found:
        for part in collective.parts:
            total = sums[carries(collective.kind, part)]
            total[0] += 1
            total[1] += part.bytes
    return dict(sums)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--method', nargs='+', default=METHODS, choices=METHODS)
    parser.add_argument('--devices', nargs='+', type=int, default=[2, 4, 8, 16])
    parser.add_argument('--topology', nargs='+', default=[], help='e.g. v5e:4x4')
    parser.add_argument('--rows', type=int, default=2, help='images a device')
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--dtype', default='', help='float32; bfloat16 for a TPU')
    parser.add_argument(
        '--set', nargs='*', default=[], help='pretrain.method.queue_length=3840'
    )
    parser.add_argument('--keep_text', default='', help='write the HLO here')
    parser.add_argument('--out', default='', help='a JSON file, one object a line')
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dtype = options.dtype or ('bfloat16' if options.topology else 'float32')
    return options


def main():
    options = parse()
    if options.child:
        print(json.dumps(measure(options)))
        return
    targets = [('--topology', t) for t in options.topology] or [
        ('--devices', str(n)) for n in options.devices
    ]
    for flag, target in targets:
        for method in options.method:
            environment = os.environ | {
                'JAX_PLATFORMS': 'cpu',
                'JAX_NUM_CPU_DEVICES': '1' if options.topology else target,
                # What is sent is settled before machine code is made.
                'JAX_DISABLE_MOST_OPTIMIZATIONS': '0' if options.topology else '1',
                'TPU_SKIP_MDS_QUERY': '1',
            }
            given = sys.argv[1:]
            command = [sys.executable, __file__, *given, '--child', flag, target]
            done = subprocess.run(
                [*command, '--method', method],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            line = done.stdout.strip().splitlines()[-1]
            print(line, flush=True)
            if options.out:
                with open(options.out, 'a') as file:
                    file.write(line + '\n')


if __name__ == '__main__':
    main()
