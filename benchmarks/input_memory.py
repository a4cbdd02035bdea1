"""How much memory do a million records take while pretraining, and how long to start?

    python benchmarks/input_memory.py [--records=1000000] [--placements=stream,host]
        [--pixels=64] [--keep=FOLDER]

Writes records of random images as `prepare` does, a tenth as many and then all, and
pretrains a tiny encoder on them for an epoch, each in a process of its own. Prints
seconds to open the set and to the end, the largest resident memory, and what each
further record adds to it. With --keep the records stay there for another time.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_BATCH = 256

PRETRAIN = """
import json, resource, sys, time
began = time.monotonic()
from pathlib import Path
from jax_mrissl.configs import base
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.pretrain import run_pretrain
from jax_mrissl.train.checkpoint import Lineage

data_dir, name, placement, folder, batch = sys.argv[1:]
config = base.pretrained('memory', 'barlow', name, variant='smoke')
config.data_dir, config.pretrain.data.name = data_dir, name
config.pretrain.data.update(split='all', placement=placement)
config.pretrain.update(batch_size=int(batch), epochs=1)
prepared = open_prepared(data_dir, name)
opened = time.monotonic() - began
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
facts = memory()
experiment = read_experiment(config)
run_pretrain(experiment.chain[0], experiment.common, prepared, Path(folder),
    Lineage('', {}, (), ''), start_from=None, probe_set=None, what='memory')
rows = [json.loads(line) for line in open(Path(folder) / 'metrics.jsonl')]
rates = sorted(row['images_per_s'] for row in rows if 'images_per_s' in row)
print(json.dumps({'open_s': opened, 'facts_mb': facts, 'peak_mb': memory(),
    'whole_s': time.monotonic() - began, 'images_per_s': rates[len(rates) // 2]}))
"""


def write_set(data_dir, name, count, pixels):
    """Writes a prepared set of random images, each a subject of its own."""
    from array_record.python import array_record_module

    from jax_mrissl.data import records
    from jax_mrissl.data.example import encode_example
    from jax_mrissl.report.png import encode_png

    folder = data_dir / name / '1.0.0'
    if (folder / 'dataset_info.json').is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shards = records.shard_count(count)
    bounds = [index * count // shards for index in range(shards + 1)]
    for index in range(shards):
        path = folder / records.shard_name(name, 'train', index, shards)
        writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
        for number in range(bounds[index], bounds[index + 1]):
            few = rng.integers(0, 200, (pixels // 8, pixels // 8), np.uint8)
            image = few.repeat(8, 0).repeat(8, 1)
            image += rng.integers(0, 8, image.shape, np.uint8)
            features = {
                'image': encode_png(image, method='quick'),
                'window': np.array([0, 255], np.float32),
                'box': np.array([0, 0, pixels, pixels], np.int32),
                'label': np.array(-1),
                'target': np.array(np.nan, np.float32),
                'group': f'{number:032x}'.encode(),
                'position': np.array(np.nan, np.float32),
                'site': b'',
                'source': b'',
                'file_id': f'{number:032x}'.encode(),
                'spacing': np.full(2, np.nan, np.float32),
                'pixel_sha256': f'{number:064x}'.encode(),
            }
            writer.write(encode_example(features))
        writer.close()
    lengths = [str(b - a) for a, b in itertools.pairwise(bounds)]
    card = {
        'options': {'format': records.FORMAT},
        'fingerprint': f'{name}-{count}-{pixels}',
        'canvas': pixels,
        'channels': 1,
        'bits': 8,
        'simulated': True,
    }
    (folder / 'card.json').write_text(json.dumps(card))
    split = {'name': 'train', 'shardLengths': lengths}
    info = {'name': name, 'splits': [split], 'version': '1.0.0'}
    (folder / 'dataset_info.json').write_text(json.dumps(info))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--records', type=int, default=1_000_000)
    parser.add_argument('--placements', default='stream,host')
    parser.add_argument('--pixels', type=int, default=64)
    parser.add_argument('--keep', type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = arguments.keep or Path(scratch)
        counts = (arguments.records // 10, arguments.records)
        for count in counts:
            write_set(data_dir, f'random{count}', count, arguments.pixels)
        for placement in arguments.placements.split(','):
            peaks = []
            for count in counts:
                folder = Path(scratch) / f'{placement}-{count}'
                given = (data_dir, f'random{count}', placement, folder, _BATCH)
                done = subprocess.run(
                    [sys.executable, '-c', PRETRAIN] + [str(x) for x in given],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                told = json.loads(done.stdout.splitlines()[-1])
                peaks.append(told['peak_mb'])
                print(
                    f'{placement:6} {count:9,} records: opened after '
                    f'{told["open_s"]:.1f} s with {told["facts_mb"]:,.0f} MB; largest '
                    f'{told["peak_mb"]:,.0f} MB; {told["images_per_s"]:,.0f} images/s; '
                    f'an epoch ended after {told["whole_s"]:.0f} s',
                    flush=True,
                )
            each = (peaks[1] - peaks[0]) * 2**20 / (counts[1] - counts[0])
            print(f'{placement:6} each further record: {each:,.0f} bytes', flush=True)


if __name__ == '__main__':
    main()
