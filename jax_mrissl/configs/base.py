"""Every field of an experiment, with its default; the other configs start from here.

    python -m jax_mrissl.main --config=configs/base.py --workdir=runs/base

Any field can be set by a flag: --config.pretrain.epochs=50. Behind the name of the file
may stand a scale, a policy, or both, as in configs/barlow_brain.py:demo,mri.

Scales:
(none)   the recommended recipe, for one GPU
cpu      real images without an accelerator: 64 pixels, short training, an hour or a few
demo     the simulated cohort, minutes on a laptop
smoke    the simulated cohort, a tiny network, seconds: does it run at all?
report   the recipe of the student report that this project redoes

Policies, of the views that pretraining learns from:
natural  the method's own, from its paper and code (the default)
mri      for MR slices: bias field, Rician noise, ghosting, gamma; no colour
ct       for CT slices: jitter of the window
xray     for radiographs: gamma, small rotations
"""

from typing import Any

from ml_collections import ConfigDict

from jax_mrissl.augment.recipes import (
    POLICIES,
    evaluation_view,
    finetune_views,
    report_evaluation_view,
)
from jax_mrissl.configs import _methods as methods
from jax_mrissl.core.errors import UserError, expect_known

SCALES = ('', 'cpu', 'demo', 'smoke', 'report')
# Where the images of a skull-stripped set end, a crop may hold little of the brain.
FOREGROUND = {'brain_mri_masked': 0.3}


def get_config(variant: str = '') -> ConfigDict:
    """Makes the base config: Barlow Twins on brain MRI."""
    return pretrained('base', 'barlow', 'brain_mri', variant=variant)


def pretrained(name: str, method: str, *datasets: str, variant: str = '') -> ConfigDict:
    """Makes the config of pretraining on datasets, one after the other.

    Args:
        name: the experiment's.
        method: a key of `_methods.METHODS`.
        datasets: at most two; the last is the section `pretrain`, the one before it
            `natural`. None: no pretraining.
        variant: a scale, a policy, or both with a comma between.
    """
    scale, policy = read_variant(variant)
    config = _everything(name)
    for section, dataset in zip(('pretrain', 'natural'), datasets[::-1], strict=False):
        # Natural images keep their own views before those of the medical ones.
        own = policy if section == 'pretrain' else 'natural'
        foreground = FOREGROUND.get(dataset, 0.0)
        chosen = methods.METHODS[method](scale, own, foreground)
        if scale == 'report':
            chosen = methods.report(method, chosen)
        config[section] = ConfigDict(_pretrain(dataset) | chosen)
    config.chain = ('natural', 'pretrain')[-len(datasets) :] if datasets else ()
    if 'brain_mri_masked' in datasets:
        # Much of what is public without skull is OASIS-1, as is the labelled set.
        config.overlap = 'leave_out'
    _SCALE[scale](config)
    return config


def read_variant(variant: str) -> tuple[str, str]:
    """Splits what stands behind the colon into scale and policy."""
    scale, policy = '', 'natural'
    known = [*SCALES[1:], *POLICIES]
    for word in filter(None, variant.split(',')):
        expect_known(word, known, 'scale or policy of the config (behind the colon)')
        if word in POLICIES:
            policy = word
        else:
            scale = word
    if scale == 'report' and policy != 'natural':
        raise UserError(
            f'The scale report has views of its own, not those of {policy}.'
        )
    return scale, policy


def _everything(name: str) -> ConfigDict:
    return ConfigDict(
        dict(
            name=name,
            seed=0,
            data_dir='data',  # where `prepare` put the datasets
            compute='auto',  # 'float32' or 'bfloat16'; auto: float32 on a CPU
            parallel='mesh',  # or 'pmap'
            remat=False,  # compute activations again in gradients, to save memory
            # What of pretraining shows a labelled subject: 'refuse', to start at all;
            # 'leave_out', those images and their subjects' others; 'allow' it.
            overlap='refuse',
            encoder=dict(name='resnet18', stem='imagenet', zero_init_residual=False),
            # A stage's folder, or a file of weights in torchvision's names, that the
            # chain (or finetuning, where it is empty) starts from; '': random.
            init_from='',
            # The sections below that pretrain, each from the one before; (): none.
            chain=(),
            # Of the page; pictures=False: it shows no picture of a subject. saliency:
            # maps of what a network looked at, made once, if pictures are shown.
            report=dict(pictures=True, saliency=True),
            finetune=dict(
                data=dict(name='alzheimer_mri', split='all'),
                # Or 'severity4', 'demented'; 'classes': the set's own; 'regression':
                # its number (CDR, sum of boxes), or by its levels, 'ordinal'.
                task='severity3',
                modes=('linear', 'knn', 'full'),
                image_size=128,
                slices_per_group=0,  # central slices of a subject; 0: all
                # Or 'site': each site is tested once. For comparison, and leaky:
                # 'image', folds of images; 'shipped', the set's own split.
                division='subject',
                folds=5,
                fold_seed=0,
                label_fraction=1.0,  # of the training subjects
                shuffle_labels=False,  # a control: subjects get each other's labels
                covariates='',  # a CSV file: age, sex, ... by session, subject or file
                where='',  # on its columns: 'age>=60 and sex==F'
                evaluation_batch_size=256,
                bootstrap_resamples=2000,
                # Of all classes but the first, for predictive values; 0: the sample's.
                prevalence=0.0,
                evaluation_view=evaluation_view(),
                linear=dict(l2_strengths=(10.0, 100.0, 1e3, 1e4, 1e5, 1e6)),
                knn=dict(neighbours=(20, 200)),
                full=dict(
                    batch_size=64,
                    epochs=50,
                    # All are tried in each fold; the best by validation is kept.
                    grid=dict(rate_per_256=(3e-4, 1e-3), weight_decay=(1e-2, 1e-1)),
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


def _pretrain(dataset: str) -> dict[str, Any]:
    """Gives a pretraining section without its method; `_methods.py` has that."""
    return dict(
        # fraction: of its subjects, nested.
        data=dict(name=dataset, split='all', placement='auto', fraction=1.0),
        image_size=128,
        batch_size=256,  # images of the whole batch, over all devices
        epochs=300,
        images_seen=0,  # in all; above 0 in place of epochs, in whole ones
        positives='image',  # or 'subject': views of two images of one subject
        # Parts of the batch that a device sees one after the other, to save memory;
        # each has batch statistics of its own.
        chunks=1,
        log_every=10,  # steps
        checkpoint_every_epochs=5,
        watch=dict(  # what is measured on the way; it decides nothing
            images=512,  # for the spread of embeddings
            every_epochs=1,
            probe_every_epochs=10,  # kNN and linear probe on labelled images; 0: never
            probe_images=2000,
            neighbours=20,
            on_collapse='warn',  # or 'stop'
        ),
    )


def _recommended(config: ConfigDict) -> None:
    """Is the base itself."""


def _cpu(config: ConfigDict) -> None:
    """Real images on a CPU, in an hour or a few: 64 pixels, the 8 central slices."""
    config.report.saliency = False
    for name in config.chain:
        config[name].update(image_size=64, batch_size=48, images_seen=50_000)
        config[name].watch.probe_every_epochs = 0
    config.finetune.update(image_size=64, slices_per_group=8)
    config.finetune.full.epochs = 6
    config.finetune.full.grid = {}  # `update` would leave it as it was


def _demo(config: ConfigDict) -> None:
    """A first look on a laptop: simulated images, small ones, few epochs."""
    config.report.saliency = False  # on a CPU it takes as long as all the rest
    for section in _simulated(config, 'demo'):
        section.update(image_size=48, batch_size=64, epochs=6)
        section.watch.update(images=128, probe_every_epochs=3)
        section.optimizer.warmup_epochs = 1.0
    config.finetune.update(image_size=48, slices_per_group=4)
    config.finetune.full.update(batch_size=32, epochs=6)
    config.finetune.full.grid = {}
    config.finetune.full.optimizer.warmup_epochs = 1.0


def _smoke(config: ConfigDict) -> None:
    """Seconds: every room is entered, nothing is learned."""
    config.encoder.name = 'resnet_tiny'
    config.report.saliency = False
    for section in _simulated(config, 'smoke'):
        section.update(
            image_size=16,
            batch_size=16,
            epochs=2,
            log_every=1,
            checkpoint_every_epochs=1,
        )
        section.watch.update(images=32, probe_every_epochs=1, neighbours=3)
        section.optimizer.warmup_epochs = 0.5
    config.finetune.update(
        image_size=16, evaluation_batch_size=32, bootstrap_resamples=200, folds=3
    )
    config.finetune.linear.l2_strengths = (1.0, 100.0)
    config.finetune.full.update(batch_size=8, epochs=2, checkpoint_every_epochs=1)
    config.finetune.full.grid = {}
    config.finetune.knn.neighbours = (3,)
    config.finetune.full.optimizer.warmup_epochs = 0.5


def _report(config: ConfigDict) -> None:
    """The report's recipe as far as it is known: SGD, 224 pixels, four classes.

    It did not resize: prepare its labelled set with --canvas=208, the longer side.
    """
    for name in config.chain:
        config[name].update(image_size=224, epochs=100)
    config.finetune.update(
        image_size=224, task='severity4', evaluation_view=report_evaluation_view()
    )
    config.finetune.full.views = [report_evaluation_view()]
    config.finetune.full.grid = {}


def _simulated(config: ConfigDict, dataset: str) -> list[ConfigDict]:
    """Puts simulated images in place of all others; gives pretraining's sections."""
    config.finetune.data.update(name=dataset, split='labelled')
    sections = [config[name] for name in config.chain]
    for section in sections:
        section.data.update(name=dataset, split='pretrain')
    return sections


_SCALE = {
    '': _recommended,
    'cpu': _cpu,
    'demo': _demo,
    'smoke': _smoke,
    'report': _report,
}
