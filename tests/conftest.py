"""Sets up JAX for the tests before anything imports it, and a small cohort."""

import os
import shutil
import tempfile
from pathlib import Path

# Before JAX starts: four CPU devices, so that one machine tests many.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_NUM_CPU_DEVICES', '4')
# Programs run once, on a few pixels: XLA's optimisations would take most of the time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
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


def pytest_sessionfinish():
    compiled = Path(jax.config.jax_compilation_cache_dir)
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
