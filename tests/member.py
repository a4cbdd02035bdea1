"""One process, or one of several, that trains a tiny network by the package's loop.

For test_processes.py, which starts it and looks at what it leaves in a folder.
"""

import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from test_parallel import ROWS, SCHEDULE, initial, objective, optimizer_of, resident_set

from jax_mrissl.core import process_flags, processes
from jax_mrissl.core.command import run_command
from jax_mrissl.core.run_dir import MetricsLog, write_atomically
from jax_mrissl.data.pipeline import Shard, row_feeds
from jax_mrissl.tasks.programs import training_program
from jax_mrissl.train.checkpoint import Checkpoints, Lineage
from jax_mrissl.train.loop import Rhythm, run_steps
from jax_mrissl.train.parallel import choose_parallel

STEPS = 6
RHYTHM = Rhythm(
    steps=STEPS,
    steps_per_epoch=2,
    log_every=2,
    checkpoint_every=2,
    monitor_every=STEPS,
)

_METHOD = flags.DEFINE_string('method', 'barlow', '')
_KIND = flags.DEFINE_string('kind', 'mesh', '')
_FOLDER = flags.DEFINE_string('folder', None, '')
_SIGNAL = flags.DEFINE_string('signal', '', 'Comes to this process ...')
_AT_STEP = flags.DEFINE_integer('at_step', 3, '... before it asks for this step.')
_AFTER = flags.DEFINE_string('after', '', '... and when this is in the folder.')


def train(folder, method, parallel, disturb=lambda step: None):
    """Trains up to STEPS, from a checkpoint if there is one; writes `result.npz`."""
    minimised = objective(method, jnp.float64)
    optimizer = optimizer_of(minimised)
    state = parallel.replicate(initial(minimised, jnp.float64))
    log = MetricsLog(folder / 'metrics.jsonl')
    with Checkpoints(folder / 'checkpoints', Lineage('', {}, (), '')) as checkpoints:
        extra = {}
        if checkpoints.latest() is not None:
            state, extra = checkpoints.restore(state)
        first = int(state.step)
        log.rewind(first)
        feeds = row_feeds(
            np.arange(40),
            batch_size=ROWS,
            steps_per_epoch=2,
            seed=0,
            first_step=first,
            shard=Shard.own(),
        )

        def disturbed():
            for step, feed in enumerate(feeds, first + 1):
                disturb(step)
                yield parallel.place_feed(feed)

        state = run_steps(
            state,
            training_program(minimised, optimizer, parallel),
            parallel.replicate(resident_set()),
            disturbed(),
            parallel.replicate(jax.random.key(7)),
            rhythm=RHYTHM,
            images_per_step=ROWS,
            learning_rate=SCHEDULE,
            log=log,
            checkpoints=checkpoints,
            monitor=lambda state, means: {},
            what='training',
            window=extra.get('window', ()),
        )
    gradient = state.opt_state[0][1]
    found = dict(gradient=gradient, params=state.params, model_state=state.model_state)
    if processes.is_first():
        leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(found))
        arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        np.savez(folder / 'result.npz', allow_pickle=False, **arrays)


def main(argv):
    del argv
    process_flags.start_processes()
    folder = Path(_FOLDER.value)
    processes.expect_shared(folder)
    # What `main` does of a process by itself, beside the others.
    seen = processes.share(lambda: [len(processes.devices()), processes.is_alone()])
    assert seen == [jax.local_device_count(), True]
    assert len(processes.devices()) == jax.device_count()
    assert processes.gather(processes.index()) == list(range(processes.count()))
    write_atomically(folder / 'who.txt', str(processes.index()))

    def disturb(step):
        if _SIGNAL.value and step == _AT_STEP.value:
            while not (folder / _AFTER.value).exists():  # others may still write it
                time.sleep(0.01)
            (folder / 'disturbed').touch()
            os.kill(os.getpid(), getattr(signal, _SIGNAL.value))

    train(folder, _METHOD.value, choose_parallel(_KIND.value, ROWS), disturb)


if __name__ == '__main__':
    run_command(main, __doc__)
