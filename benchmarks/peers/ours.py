"""The contestant jax_mrissl: pretraining as `main` runs it.

    python benchmarks/peers/ours.py --config=configs/barlow_brain.py:report \
        --config.data_dir=data --config.pretrain.image_size=64
"""

from absl import app
from ml_collections import config_flags
from worker import serve

from jax_mrissl.core.runtime import prepare_runtime

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')


def main(argv):
    del argv
    from jax_mrissl.data.pipeline import choose_placement
    from jax_mrissl.tasks.bench import running
    from jax_mrissl.tasks.from_config import read_experiment
    from jax_mrissl.tasks.pretrain import device_in_words, open_data

    experiment = read_experiment(_CONFIG.value)
    plan, common = experiment.chain[-1], experiment.common
    prepared = open_data(plan.data, common.data_dir)
    placement = choose_placement(plan.data.placement, prepared)
    run = running(plan, common, prepared, placement)
    run(3)
    facts = {'device': device_in_words(), 'dtype': common.dtype, 'images': placement}
    serve(run, images_per_step=plan.batch_size, facts=facts)


if __name__ == '__main__':
    prepare_runtime()
    app.run(main)
