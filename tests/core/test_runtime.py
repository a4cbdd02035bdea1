import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, resource, sys
from jax_mrissl.core.runtime import prepare_runtime
if sys.argv[1] == 'prepared':
    prepare_runtime()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
size = 64_000_000
b'x' * size
before = faults()
for _ in range(10):
    b'x' * size  # 15,625 pages of 4 KiB, freed at once
print(faults() - before, os.environ.get('JAX_COMPILATION_CACHE_DIR'))
"""


def run(how, **environment):
    told = ('JAX_', 'GLIBC_', 'MALLOC_')
    kept = {k: v for k, v in os.environ.items() if not k.startswith(told)}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, how],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    faults, folder = done.stdout.split()
    return int(faults), folder


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc alone is told')
def test_freed_memory_is_kept():
    plain, _ = run('plain', GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
    prepared, _ = run('prepared')
    assert plain > 10_000
    assert prepared < plain / 100


def test_what_the_environment_says_stays(tmp_path):
    own = str(tmp_path / 'own')
    assert run('prepared', JAX_COMPILATION_CACHE_DIR=own)[1] == own
    faults, folder = run(
        'prepared',
        XDG_CACHE_HOME=str(tmp_path),
        GLIBC_TUNABLES='glibc.malloc.hugetlb=0',
    )
    assert folder.startswith(f'{tmp_path}/jax_mrissl/programs/')
    assert faults > 10_000
