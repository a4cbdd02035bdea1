"""Sets up JAX for the tests before anything imports it, and a small cohort."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

# Before JAX starts: four CPU devices, so that one machine tests many.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '4')
# Programs run once, on a few pixels: XLA's optimisations would take most of the time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# And so would its newer way to emit code: it takes half as long again to compile. Other
# versions may not know the flag, which would end the process.
if metadata.version('jaxlib').startswith('0.10.'):
    os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
# What one test has compiled no other compiles again, nor the processes that it starts.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp(prefix='jax_mrissl-compiled-')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

import jax
import numpy as np
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


# Files that train much: they begin first, so that at the end no process waits for one.
LONG = (
    'test_parallel',
    'test_journey',
    'test_experiments',
    'test_study',
    'test_step',
    'test_trials',
    'test_ops',
    'test_saliency_gallery',
    'test_predict',
)


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))


def pytest_sessionfinish(session):
    compiled = Path(jax.config.jax_compilation_cache_dir)
    if hasattr(session.config, 'workerinput'):  # one of several: others still use it
        return
    if compiled.name.startswith('jax_mrissl-compiled-'):
        shutil.rmtree(compiled, ignore_errors=True)


CLASSES = ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented')


@pytest.fixture
def float64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


def write_cohort(folder, *, slices=3, unlabelled=40, seed=0):
    """Writes a raw folder in the layout of the simulated cohort; seconds not needed.

    Subjects of a class share the brightness of a bar, so that there is something to
    learn; each image has noise of its own.
    """
    from jax_mrissl.report.png import encode_png

    rng = np.random.default_rng(seed)

    def write(path, level):
        pixels = rng.integers(0, 120, (28, 24)).astype(np.uint8)
        pixels[8:20, 6:18] = np.clip(level + rng.integers(0, 40, (12, 12)), 0, 255)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))

    for index in range(unlabelled):
        name = f'sub-{index:04d}_slice-01.png'
        write(folder / 'pretrain' / name, int(rng.integers(0, 200)))
    subject = 1000
    for label, (name, count) in enumerate(zip(CLASSES, (6, 5, 4, 1), strict=True)):
        for _ in range(count):
            subject += 1
            for position in range(slices):
                file = f'sub-{subject}_slice-{position + 1:02d}.png'
                write(folder / 'labelled' / name / file, 50 * label)
    return folder


@pytest.fixture(scope='session')
def cohort(tmp_path_factory):
    """A prepared dataset `smoke`; gives its data_dir."""
    from jax_mrissl.data.preparation import prepare_dataset

    # As `main` would have it, so that it finds it done.
    data_dir = tmp_path_factory.mktemp('data')
    write_cohort(data_dir / 'raw' / 'smoke')
    prepare_dataset('smoke', [], data_dir, canvas=48, workers=1)
    return data_dir


def smoke_config(data_dir, name='barlow_brain', **changes):
    """Gives a config at smoke scale on the small cohort, changed by dotted names."""
    import importlib

    config = importlib.import_module(f'jax_mrissl.configs.{name}').get_config('smoke')
    config.data_dir = str(data_dir)
    for dotted, value in changes.items():
        config.update_from_flattened_dict({dotted.replace('__', '.'): value})
    return config


@pytest.fixture(scope='session')
def stock(cohort):
    """Puts the finished stages of configs/barlow_brain.py:smoke into a work folder.

    They are run once, whatever number of processes the tests run in.
    """
    from jax_mrissl.stages.plan import plan_experiment
    from jax_mrissl.stages.run import STAGES
    from jax_mrissl.stages.store import Store
    from jax_mrissl.stages.work import do_jobs
    from jax_mrissl.tasks.from_config import read_experiment

    common = Path(jax.config.jax_compilation_cache_dir)
    if not common.name.startswith('jax_mrissl-compiled-'):
        common = Path(tempfile.mkdtemp(prefix='jax_mrissl-stock-'))
    store = Store(common / STAGES)
    experiment = read_experiment(smoke_config(cohort))
    planned = plan_experiment(experiment, store, spare=common / 'audit')
    do_jobs(planned.jobs, store)

    def put(workdir):
        shutil.copytree(common / STAGES, workdir / STAGES)
        return workdir

    return put


def textures(count, seed):
    """Draws smooth textures, uint8 [count, 80, 80]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(80)[:, None], np.fft.rfftfreq(80)[None, :])
    frequency[0, 0] = 1
    noise = rng.normal(size=(2, count, *frequency.shape))
    drawn = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**1.5, s=(80, 80))
    drawn -= drawn.mean(axis=(1, 2), keepdims=True)
    drawn *= 40 / drawn.std(axis=(1, 2), keepdims=True)
    return np.clip(drawn + 120, 0, 255).astype(np.uint8)


def write_pngs(folder, named):
    from jax_mrissl.report.png import encode_png

    for name, pixels in named.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(np.ascontiguousarray(pixels)))


@pytest.fixture(scope='session')
def twins_dir(tmp_path_factory):
    """Two sets: `tested`, 12 subjects of 2 images; `others`, with twins of three."""
    from jax_mrissl.data.own import OwnFolder
    from jax_mrissl.data.preparation import prepare_dataset
    from jax_mrissl.data.spec import PathPattern

    subject = PathPattern(r'(sub-\d+)')
    root = tmp_path_factory.mktemp('audited')
    tested = textures(24, seed=0)
    write_pngs(
        root / 'raw_tested',
        {
            f'{"healthy" if i % 2 else "ill"}/sub-{i:02d}_{k}.png': tested[2 * i + k]
            for i in range(12)
            for k in range(2)
        },
    )
    # A neighbouring slice is half itself, half the next: here a quarter of another.
    near = (0.75 * tested[4] + 0.25 * tested[9]).astype(np.uint8)
    brighter = np.clip(tested[2].astype(int) + 20, 0, 255).astype(np.uint8)
    write_pngs(
        root / 'raw_others',
        {
            'sub-90_0.png': tested[0],  # exact, of subject 0
            'sub-90_1.png': np.rot90(brighter),  # a twin, of subject 1
            'sub-91_0.png': near,  # of subject 2
            **{f'sub-{50 + i}_0.png': p for i, p in enumerate(textures(30, seed=1))},
        },
    )
    for name, classes in (('tested', ('healthy', 'ill')), ('others', ())):
        prepare_dataset(
            'folder',
            [root / f'raw_{name}'],
            root,
            canvas=80,
            workers=1,
            own=OwnFolder(name, classes, subject),
        )
    return root


def run_module(name, *flags):
    """Runs a command of the package in a process of its own."""
    return subprocess.run(
        [sys.executable, '-m', f'jax_mrissl.{name}', *flags],
        capture_output=True,
        text=True,
        check=False,
    )


def start_worker(name, *flags):
    """Starts one of several processes of a command, on one device."""
    return subprocess.Popen(
        [sys.executable, '-m', f'jax_mrissl.{name}', *flags],
        env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def stages(workdir):
    """Gives when each stage was finished, by its folder."""
    return {
        p.parent.name: p.stat().st_mtime_ns for p in workdir.glob('stages/*/done.json')
    }


def dicom_of(stored, **tags):
    """Makes an MR image of stored values, [H, W] or [frames, H, W]; tags come last."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = '1.2.3'
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID = 'MR', 'P7', '1.2'
    ds.PhotometricInterpretation, ds.SamplesPerPixel = 'MONOCHROME2', 1
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation = int(stored.dtype.kind == 'i')
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def write_ct(path, units, **tags):
    """Writes Hounsfield units as scanners do: 12 bits, unsigned, with an intercept."""
    ct = dict(Modality='CT', BitsStored=12, HighBit=11, RescaleSlope='1')
    stored = (units + 1024).astype('<u2')
    ds = dicom_of(stored, **ct, RescaleIntercept='-1024', **tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
