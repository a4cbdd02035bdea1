"""How much memory this process has held."""

import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def restart_peak() -> None:
    """Lets the peak begin anew from what is held now, where Linux can."""
    try:
        _CLEAR.write_text('5')
    except OSError:  # another system, or not allowed: the peak is since the start
        return


def peak_resident_bytes() -> int:
    """Gives the most memory that this process had resident, since `restart_peak`."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith('VmHWM:'):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak
