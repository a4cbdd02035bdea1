"""Simulated datasets, made when an experiment asks for them."""

from absl import logging

from jax_mrissl.data.catalog import DATASETS
from jax_mrissl.data.demo import DEMO, SMALL
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.tasks.from_config import Experiment

# Height and width of the stored images, in pixels: as they are simulated.
_CANVAS = {'demo': DEMO.size, 'smoke': SMALL.size}


def prepare_simulated(experiment: Experiment) -> None:
    """Makes and prepares the simulated datasets that an experiment names.

    Does nothing for a dataset of real images, nor for one that is there already.

    Args:
        experiment: the plans.

    Raises:
        UserError: other data lie under the dataset's name, or the disk is full.
    """
    plans = [*(plan.data for plan in experiment.chain), experiment.finetune.data]
    for name in dict.fromkeys(plan.name for plan in plans):
        if name not in DATASETS or not DATASETS[name].simulated:
            continue
        # Workers of a study start at the same moment, and all of them find it missing.
        prepared = prepare_dataset(
            name, (), experiment.common.data_dir, canvas=_CANVAS[name], wait=True
        )
        logging.info(
            'The dataset %s is SIMULATED: its %d images show that the program works, '
            'and say nothing of medicine.',
            name,
            prepared.card['counts']['images'],
        )
