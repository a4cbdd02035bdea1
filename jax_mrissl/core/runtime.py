"""What is settled before JAX starts: where programs are kept, and how memory is."""

import ctypes
import hashlib
import os
import platform
import sys
from pathlib import Path

_CACHE_DIR = 'JAX_COMPILATION_CACHE_DIR'
_LEAST_S = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'
# Of mallopt, malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1
_PAD_BYTES = 64 * 2**20


def prepare_runtime() -> None:
    """Keeps compiled programs on disk, and freed memory in the process.

    Call it before JAX is imported and before there are threads. What the environment
    says already is left as it is.
    """
    os.environ.setdefault(_CACHE_DIR, str(program_folder()))
    # A command has dozens of small programs, of a few tenths of a second each.
    os.environ.setdefault(_LEAST_S, '0.1')
    _keep_freed_memory()


def program_folder() -> Path:
    """Gives the folder of compiled programs: the user's, for this kind of processor.

    Programs for a CPU use what that CPU can do, and a home may be shared by several.
    """
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'jax_mrissl' / 'programs' / _processor()


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        told = [x for x in lines if x.startswith(('model name', 'flags', 'Features'))]
    except OSError:  # not Linux
        told = []
    facts = '\n'.join(sorted(set(told))) or platform.processor()
    return f'{platform.machine()}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}'


def _keep_freed_memory() -> None:
    """Lets glibc keep what is freed, rather than return it and fetch it anew.

    XLA's CPU backend allocates the temporaries of a program at each run. As they are
    large, glibc maps them, and the kernel clears every page again: 75,000 faults and a
    sixth of the CPU time of a ResNet18 step at 64 pixels and batch 64. One arena,
    because others map large blocks whatever they are told.
    """
    settings = os.environ.get('GLIBC_TUNABLES', '')
    chosen = 'glibc.malloc' in settings or any(
        name.startswith('MALLOC_') and name.endswith('_') for name in os.environ
    )
    glibc = sys.platform == 'linux' and platform.libc_ver()[0] == 'glibc'
    if chosen or 'MALLOC_ARENA_MAX' in os.environ or not glibc:
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_TOP_PAD, _PAD_BYTES)
