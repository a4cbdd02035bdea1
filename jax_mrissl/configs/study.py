r"""A study: methods x images of pretraining x what is asked; the report's three tables.

    python -m jax_mrissl.study --config=configs/study.py --config.data_dir=data \
        --workdir=W

Part of the grid, in small:

    python -m jax_mrissl.study --config=configs/study.py --workdir=W \
        --config.study.methods="('barlow',)" --config.study.chains="('brain',)" \
        --config.pretrain.image_size=64 --config.pretrain.epochs=20

The matrix of transfer, from every chain to several labelled sets (of a set that is
asked, too, pretraining leaves the labelled subjects out):

    python -m jax_mrissl.study --config=configs/study.py --workdir=W \
        --config.study.targets="('severity3','oasis_cdr','tumours')"

Scales behind a colon, as in `base.py`: cpu, demo, smoke, report. Sections:

study       which cells the grid has
search      what `python -m jax_mrissl.search` may change of pretraining, and how
pretrain    what all pretraining has in common
domains     images to pretrain on: a dataset, and the views of each method
methods     each method's settings and optimiser
targets     what is asked of an encoder: a labelled set and a task
finetune    what all finetuning has in common
"""

from typing import Any

from ml_collections import ConfigDict

from jax_mrissl.configs import _methods, base

# The words of chains, and the datasets that they stand for.
_DOMAINS = {
    'natural': 'tiny_imagenet',
    'brain': 'brain_mri',
    'masked': 'brain_mri_masked',
    'xray': 'chest_xray',
    'ct': 'ct',
}
# What may be asked: a labelled set, its split, and a task. With more than one set there
# is a matrix of transfer. Any field of `finetune` may stand beside, such as `where`.
_TARGETS = {
    'severity3': ('alzheimer_mri', 'all', 'severity3'),
    'severity4': ('alzheimer_mri', 'all', 'severity4'),
    'cdr': ('alzheimer_mri', 'all', 'regression'),
    'oasis_cdr': ('oasis1', 'all', 'regression'),
    'tumours': ('brain_mri', 'all', 'classes'),
    'objects': ('tiny_imagenet', 'val', 'classes'),
}
_METHODS = ('simclr', 'barlow', 'swav')
# On simulated images domains would be all alike; so their views differ there.
_SIMULATED_POLICIES = {'brain': 'mri', 'xray': 'xray', 'ct': 'ct'}


def get_config(variant: str = '') -> ConfigDict:
    """Makes the config; `base.py` tells the variants."""
    whole = base.pretrained('study', 'barlow', 'brain_mri', variant=variant)
    scale, policy = base.read_variant(variant)
    simulated = scale in ('demo', 'smoke')
    config = ConfigDict({k: v for k, v in whole.items() if k != 'pretrain'})
    # In their place: study.seeds, modes and label_fractions.
    del config.chain, config.seed, config.finetune.modes
    del config.finetune.label_fraction
    del config.report.saliency  # study.saliency says of whom
    config.overlap = 'leave_out'  # each cell is to be had, and honest
    # What a method or a domain has of its own stands there.
    own = ('data', 'method', 'optimizer', 'views')
    shared = {k: v for k, v in whole.pretrain.items() if k not in own}
    config.pretrain = ConfigDict(shared)
    config.study = ConfigDict(
        dict(
            methods=_METHODS,
            # Of domains; 'natural>brain': one after the other, as many as one likes.
            chains=(*_DOMAINS, 'natural>brain', 'brain>natural'),
            targets=('severity3', 'severity4'),
            seeds=(0,),
            label_fractions=(1.0,),  # of the training subjects, nested
            pretraining_fractions=(1.0,),  # of the subjects of the last domain, nested
            modes=('linear',),  # in every cell
            # In addition, of the untrained encoder and of the best by validation.
            finalists=2,
            final_modes=('full',),
            # Maps of what their networks look at, on their experiments' pages; or
            # 'all', or 'none'. Made once; a later start adds them, and trains nothing.
            saliency='finalists' if scale in ('', 'report') else 'none',
        )
    )
    config.search = ConfigDict(
        dict(
            trials=16,  # of every arm; the first has the settings of this config
            # Or 'tpe': the next is drawn near what did well. Then folds in which tested
            # subjects validate decide what there is to choose from.
            sampler='random',
            # A trial ends when every fold has given it up: its own validation loss was
            # above the median. 'none': each goes to its end.
            pruner='median',
            startup_trials=4,  # go to their end in any case
            looks=3,  # at a trial on its way, each a linear probe in every fold
            # By method: fields of its section or of `pretrain`. Values are so many
            # `times` less or more than the config's, or `shares` of it (and itself); or
            # from `low` to `high` (whole numbers if both are), or of `choices`.
            # `length`: epochs, or images_seen where that is set. shares=(): as it is.
            space={},
        )
    )
    # The report had these alone.
    known = _METHODS if scale == 'report' else tuple(_methods.METHODS)
    config.methods = ConfigDict()
    config.domains = ConfigDict()
    for name, dataset in _DOMAINS.items():
        data = whole.pretrain.data.to_dict() if simulated else dict(name=dataset)
        domain: dict[str, Any] = dict(
            data=dict(name=data['name'], split=data.get('split', 'all')),
            epochs=0,  # 0: as in `pretrain`
            views={},
        )
        for method in known:
            section = _section(method, scale, _policy(name, policy, simulated), dataset)
            domain['views'][method] = section.pop('views')
            config.methods[method] = ConfigDict(section)
        config.domains[name] = ConfigDict(domain)
    for method in known:
        if simulated:
            warmup = whole.pretrain.optimizer.warmup_epochs
            config.methods[method].optimizer.warmup_epochs = warmup
    for method in known:
        shares = {
            'batch_size': dict(shares=(0.5, 1.0)),
            'length': dict(shares=(0.5, 1.0)),
        }
        section = config.methods[method].to_dict()
        config.search.space[method] = ConfigDict(_methods.space(section) | shares)
    own_data = config.finetune.data.to_dict()
    del config.finetune.data, config.finetune.task
    config.targets = ConfigDict()
    for name, (dataset, split, task) in _TARGETS.items():
        data = own_data if simulated else dict(name=dataset, split=split)
        config.targets[name] = ConfigDict(dict(data=data, task=task))
    return config


def _section(method: str, scale: str, policy: str, dataset: str) -> dict[str, Any]:
    foreground = base.FOREGROUND.get(dataset, 0.0)
    section = _methods.METHODS[method](scale, policy, foreground)
    return _methods.report(method, section) if scale == 'report' else section


def _policy(domain: str, policy: str, simulated: bool) -> str:
    """Gives the policy of a domain's views; natural images keep their own."""
    if simulated:
        return _SIMULATED_POLICIES.get(domain, 'natural')
    return 'natural' if domain == 'natural' else policy
