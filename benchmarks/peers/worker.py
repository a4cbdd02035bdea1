"""What every contestant speaks: ready once, then so many steps for each line it reads.

A contestant is a process. It prints {"ready": FACTS} when it has compiled and warmed
up, and from then on, for each number of steps on a line of its input, {"seconds": S,
"images": N} when they are done.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def serve(run: Callable[[int], None], *, images_per_step: int, facts: Mapping) -> None:
    """Runs blocks of steps as they are asked for, until the input ends.

    Args:
        run: runs so many steps, and waits for the last.
        images_per_step: of the batch.
        facts: said once, for the record.
    """
    _say({'ready': dict(facts)})
    for line in sys.stdin:
        steps = int(line)
        began = time.perf_counter()
        run(steps)
        seconds = time.perf_counter() - began
        _say({'seconds': seconds, 'images': steps * images_per_step})


def _say(what: Any) -> None:
    print(json.dumps(what), flush=True)
