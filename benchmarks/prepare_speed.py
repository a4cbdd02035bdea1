"""How fast is `prepare`, and how much memory does it take? Against one plain loop.

    python benchmarks/prepare_speed.py [--formats=jpeg,png,dicom] [--files=4000]
        [--pixels=256] [--repeats=3] [--workers=2]
    python benchmarks/prepare_speed.py --memory [--files=200000]

Writes files of each format (smooth noise, so that they compress like tissue), then
lets a plain loop in one process (decode, resize to the canvas, encode as PNG, write;
what a script of ten lines would do) and `prepare` on some processes take turns. Prints
medians of files per second, their ratio, the largest process's memory of each, and the
same ratio by processor time: what it would be if nothing else ran on the machine.
`prepare` also hashes files, finds repeats, groups subjects and writes cards.

With --memory, prepares a tenth of many small PNG files and then all of them: the memory
of its largest process, and what each further file adds to it.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CANVAS = 160
PLAIN = """
import io, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image

folder, out = Path(sys.argv[1]), open(sys.argv[2], 'wb')
for file in sorted(folder.rglob('*')):
    if file.suffix == '.dcm':
        import pydicom
        values = pydicom.dcmread(file).pixel_array.astype(np.float32)
        low, high = np.percentile(values, [0.5, 99.5])
        scaled = np.clip((values - low) / (high - low), 0, 1)
        image = Image.fromarray((255 * scaled).astype(np.uint8))
    elif file.is_file():
        image = Image.open(file).convert('L')
    else:
        continue
    buffer = io.BytesIO()
    image.resize(({canvas}, {canvas}), Image.BICUBIC).save(buffer, 'PNG')
    out.write(buffer.getvalue())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
OURS = """
import resource, sys
from jax_mrissl.data.preparation import prepare_dataset
prepare_dataset(
    'folder',
    [sys.argv[4]],
    sys.argv[1],
    canvas=int(sys.argv[2]),
    workers=int(sys.argv[3]),
)
kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(max(resource.getrusage(kind).ru_maxrss for kind in kinds))
"""


def texture(rng, pixels):
    """Draws an image of smooth noise, uint8 [pixels, pixels]."""
    from PIL import Image

    few = rng.integers(0, 256, (max(pixels // 8, 2),) * 2, np.uint8)
    smooth = Image.fromarray(few).resize((pixels, pixels), Image.Resampling.BICUBIC)
    noise = rng.integers(-4, 5, (pixels, pixels))
    return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def write_dicom(path, pixels, number):
    """Writes an MR slice of 12 bits, uncompressed; ten slices a series."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = f'1.2.4.{number}'
    header = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b'\0' * 128)
    header.Modality = 'MR'
    header.PatientID = f'p{number // 10}'
    header.SeriesInstanceUID = f'1.2.3.{number // 10}'
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, 'MONOCHROME2'
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    header.save_as(path, enforce_file_format=True)


def write_files(folder, kind, count, pixels):
    """Writes `count` different files, a thousand in each folder."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f'{number // 1000:04d}' / f'{number:07d}'
        path.parent.mkdir(parents=True, exist_ok=True)
        image = texture(rng, pixels)
        if kind == 'dicom':
            write_dicom(path.with_suffix('.dcm'), image, number)
        else:
            suffix = {'jpeg': '.jpg', 'png': '.png'}[kind]
            Image.fromarray(image).save(path.with_suffix(suffix))


def timed(program, *arguments):
    """Runs a program; gives seconds, those of processors, and its memory in MB.

    The memory is that of the largest of its processes.
    """
    began, busy = time.perf_counter(), processor_s()
    done = subprocess.run(
        [sys.executable, '-c', program, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    memory_mb = int(done.stdout.split()[-1]) / 1024
    return time.perf_counter() - began, processor_s() - busy, memory_mb


def processor_s():
    """Gives the processor time of all processes that this one has seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(kind, arguments):
    """Lets the loop and `prepare` take turns on one format; prints their rates."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_files(work / 'raw', kind, arguments.files, arguments.pixels)
        found = {'plain': [], 'ours': []}
        for _ in range(arguments.repeats):
            out = work / 'plain.bin'
            plain = PLAIN.replace('{canvas}', str(CANVAS))
            found['plain'].append(timed(plain, work / 'raw', out))
            out = work / 'data'
            ours = timed(OURS, out, CANVAS, arguments.workers, work / 'raw')
            found['ours'].append(ours)
            shutil.rmtree(out)
    elapsed, busy, memory = (
        {who: [run[part] for run in runs] for who, runs in found.items()}
        for part in range(3)
    )
    rate = {w: arguments.files / statistics.median(s) for w, s in elapsed.items()}
    cost = {who: statistics.median(s) for who, s in busy.items()}
    print(
        f'{kind:6} {arguments.files} files of {arguments.pixels} pixels: plain '
        f'{rate["plain"]:.0f} files/s, {max(memory["plain"]):.0f} MB; prepare on '
        f'{arguments.workers} processes {rate["ours"]:.0f} files/s, '
        f'{max(memory["ours"]):.0f} MB: {rate["ours"] / rate["plain"]:.2f} x; '
        f'processors {cost["plain"]:.1f} s and {cost["ours"]:.1f} s: '
        f'{cost["plain"] / cost["ours"] * arguments.workers:.2f} x',
        flush=True,
    )


def weigh(arguments):
    """Prints the memory that a tenth of many files takes, and all of them."""
    pixels = 24
    with tempfile.TemporaryDirectory() as name:
        raw, out = Path(name) / 'raw', Path(name) / 'data'
        write_files(raw, 'png', arguments.files, pixels)
        few = Path(name) / 'few'
        few.mkdir()
        for folder in sorted(raw.iterdir())[: max(arguments.files // 10_000, 1)]:
            (few / folder.name).symlink_to(folder)
        found = []
        for some in (few, raw):
            count = sum(len(list(folder.iterdir())) for folder in some.iterdir())
            *_, memory_mb = timed(OURS, out, pixels, arguments.workers, some)
            shutil.rmtree(out)
            found.append((count, memory_mb))
            print(f'{count} files: {memory_mb:.0f} MB', flush=True)
        (few, least), (many, most) = found
        each = (most - least) * 2**20 / (many - few)
        print(f'each further file: {each:.0f} bytes')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--formats', default='jpeg,png,dicom')
    parser.add_argument('--files', type=int)
    parser.add_argument('--pixels', type=int, default=256)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--memory', action='store_true')
    arguments = parser.parse_args()
    arguments.files = arguments.files or (200_000 if arguments.memory else 4000)
    if arguments.memory:
        weigh(arguments)
        return
    for kind in arguments.formats.split(','):
        compare(kind, arguments)


if __name__ == '__main__':
    main()
