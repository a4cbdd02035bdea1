"""Every field of an experiment, with its default; the other configs start from here.

    python -m jax_mrissl.main --config=configs/base.py --workdir=runs/base

Any field can be set by a flag: --config.pretrain.epochs=50. A scale goes behind the
name of the file, as in configs/barlow_brain.py:demo:

(none)   the recommended recipe, for one GPU
:demo    the simulated cohort, minutes on a laptop
:smoke   the simulated cohort, a tiny network, seconds: does it run at all?
:report  the recipe of the student report that this project redoes
"""

from ml_collections import ConfigDict

from jax_mrissl.augment.recipes import barlow_views, evaluation_view, finetune_views
from jax_mrissl.core.errors import expect_known

SCALES = ('', 'demo', 'smoke', 'report')


def get_config(scale: str = '') -> ConfigDict:
    """Makes the base config at one of `SCALES`."""
    if scale:
        expect_known(scale, SCALES[1:], 'scale of the config (behind the colon)')
    config = ConfigDict(
        dict(
            name='base',
            seed=0,
            data_dir='data',  # where `prepare` put the datasets
            compute='auto',  # 'float32' or 'bfloat16'; auto: float32 on a CPU
            parallel='mesh',  # or 'pmap'
            allow_overlap=False,  # may pretraining see images of the labelled set?
            encoder=dict(name='resnet18', stem='imagenet', zero_init_residual=False),
            # The sections below that pretrain, each from the one before; (): none.
            chain=('pretrain',),
            pretrain=dict(
                data=dict(name='brain_mri', split='all', placement='auto'),
                image_size=128,
                batch_size=256,  # images of the whole batch, over all devices
                epochs=300,
                method=dict(
                    name='barlow',
                    projector_widths=(2048, 2048, 2048),
                    redundancy_weight=0.0051,
                ),
                # The rate for a batch of 256 of the authors' own table; biases and
                # norms as in their code.
                optimizer=dict(
                    name='lars',
                    rate_per_256=0.4,
                    bias_rate_per_256=0.0048,
                    warmup_epochs=10.0,
                    final_fraction=0.001,
                    weight_decay=1e-6,
                ),
                views=barlow_views(),
                log_every=10,  # steps
                checkpoint_every_epochs=5,
                monitor_images=512,
            ),
            finetune=dict(
                data=dict(name='alzheimer_mri', split='all'),
                task='severity3',  # or 'severity4', or 'classes': the set's own
                modes=('linear', 'full'),
                image_size=128,
                slices_per_group=0,  # central slices of a subject; 0: all
                folds=5,
                fold_seed=0,
                evaluation_batch_size=256,
                bootstrap_resamples=2000,
                evaluation_view=evaluation_view(),
                linear=dict(l2_strengths=(10.0, 100.0, 1e3, 1e4, 1e5, 1e6)),
                full=dict(
                    batch_size=64,
                    epochs=50,
                    optimizer=dict(
                        name='adamw',
                        rate_per_256=1e-3,
                        warmup_epochs=2.0,
                        final_fraction=0.0,
                        weight_decay=1e-2,
                    ),
                    views=finetune_views(),
                    checkpoint_every_epochs=5,
                ),
            ),
        )
    )
    _SCALE[scale](config)
    return config


def _recommended(config: ConfigDict) -> None:
    """Is the base itself."""


def _demo(config: ConfigDict) -> None:
    """A first look on a laptop: simulated images, small ones, few epochs."""
    _simulated(config, 'demo')
    config.pretrain.update(image_size=48, batch_size=64, epochs=6, monitor_images=128)
    config.pretrain.method.projector_widths = (512, 512, 512)
    config.pretrain.optimizer.warmup_epochs = 1.0
    config.finetune.update(image_size=48, slices_per_group=4)
    config.finetune.full.update(batch_size=32, epochs=6)
    config.finetune.full.optimizer.warmup_epochs = 1.0


def _smoke(config: ConfigDict) -> None:
    """Seconds: every room is entered, nothing is learned."""
    _simulated(config, 'smoke')
    config.encoder.name = 'resnet_tiny'
    config.pretrain.update(
        image_size=16, batch_size=16, epochs=2, log_every=1, checkpoint_every_epochs=1
    )
    config.pretrain.monitor_images = 32
    config.pretrain.method.projector_widths = (16, 16)
    config.pretrain.optimizer.warmup_epochs = 0.5
    config.finetune.update(
        image_size=16, evaluation_batch_size=32, bootstrap_resamples=200, folds=3
    )
    config.finetune.linear.l2_strengths = (1.0, 100.0)
    config.finetune.full.update(batch_size=8, epochs=2, checkpoint_every_epochs=1)
    config.finetune.full.optimizer.warmup_epochs = 0.5


def _report(config: ConfigDict) -> None:
    """The report's recipe as far as it is known: SGD, 224 pixels, four classes."""
    config.pretrain.image_size = 224
    config.pretrain.epochs = 100
    # The rate of the Lightly library's own small-data benchmarks, which it followed.
    config.pretrain.optimizer = ConfigDict(
        dict(name='sgd', rate_per_256=0.06, momentum=0.9, weight_decay=5e-4)
    )
    config.finetune.update(image_size=224, task='severity4')


def _simulated(config: ConfigDict, dataset: str) -> None:
    config.pretrain.data.update(name=dataset, split='pretrain')
    config.finetune.data.update(name=dataset, split='labelled')


_SCALE = {
    '': _recommended,
    'demo': _demo,
    'smoke': _smoke,
    'report': _report,
}
