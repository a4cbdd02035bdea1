"""The methods' sections: settings, optimiser and views of each, by scale and policy.

    python -m jax_mrissl.main --config=configs/simclr_brain.py

Not an experiment of its own: `base.py` puts these into the section `pretrain`.
"""

from typing import Any

from jax_mrissl.augment.recipes import (
    barlow_views,
    report_views,
    simclr_views,
    swav_views,
)

Section = dict[str, Any]


def barlow(scale: str, policy: str, foreground: float) -> Section:
    """Gives Barlow Twins; rates are the authors', for batches of 256."""
    section: Section = dict(
        method=dict(
            name='barlow', projector_widths=(2048, 2048, 2048), redundancy_weight=0.0051
        ),
        # The rate for a batch of 256 of the authors' own table; biases and norms as in
        # their code, where they stand beside a rate of 0.2.
        optimizer=dict(
            name='lars',
            rate_per_256=0.4,
            bias_rate_per_256=0.0048,
            warmup_epochs=10.0,
            final_fraction=0.001,
            weight_decay=1e-6,
        ),
        views=barlow_views(policy, foreground=foreground),
    )
    if scale == 'cpu':
        # Over a few dozen images a correlation is noise unless there are few of them.
        section['method'].update(
            projector_widths=(128, 128, 128), redundancy_weight=0.02
        )
        section['optimizer'] = _short(2e-3)
    if scale == 'demo':
        section['method']['projector_widths'] = (512, 512, 512)
    if scale == 'smoke':
        section['method']['projector_widths'] = (16, 16)
    return section


def simclr(scale: str, policy: str, foreground: float) -> Section:
    """Gives SimCLR; a temperature of 0.5 for batches of a few hundred."""
    section: Section = dict(
        method=dict(
            name='simclr',
            projector='v2',
            width=128,
            temperature=0.5,
            mask_same_group=False,  # slices of one subject are no negatives
        ),
        optimizer=dict(
            name='lars',
            rate_per_256=0.3,
            rate_enters='before_momentum',
            warmup_epochs=10.0,
            weight_decay=1e-6,
        ),
        # Half the strength, as the authors have it for small images.
        views=simclr_views(policy, strength=0.5, foreground=foreground),
    )
    if scale == 'cpu':
        section['method']['temperature'] = 0.2
        section['optimizer'] = _short(2.4e-3)
    if scale == 'smoke':
        section['method']['width'] = 8
    if scale == 'report':
        section['method']['projector'] = 'lightly'
    return section


def swav(scale: str, policy: str, foreground: float) -> Section:
    """Gives SwAV; as many prototypes as a batch has images, so without a queue."""
    section: Section = dict(
        method=dict(
            name='swav',
            prototypes=256,
            hidden_width=2048,
            width=128,
            temperature=0.1,
            epsilon=0.05,
            queue_length=0,
            queue_from_epoch=15.0,
            freeze_prototypes_epochs=1.0,
        ),
        # As the authors have it for batches of 256: no warm-up; all is adapted.
        optimizer=dict(
            name='lars',
            rate_per_256=0.6,
            adapts='all',
            decays='all',
            final_fraction=0.001,
            weight_decay=1e-6,
        ),
        views=swav_views(policy, small=6, foreground=foreground),
    )
    if scale == 'cpu':
        # Of a fresh network the scores of a prototype lie within some hundredths:
        # divided by 0.05 they give codes that are all but even, and runs of a few
        # hundred steps then end where they began to collapse, at ln K.
        section['method'].update(
            prototypes=32, hidden_width=512, epsilon=0.01, freeze_prototypes_epochs=0.0
        )
        section['optimizer'] = _short(2.4e-3)
        section['views'] = swav_views(policy, small=0, foreground=foreground)
    if scale == 'demo':
        section['method'].update(prototypes=64, hidden_width=512)
        section['views'] = swav_views(policy, small=2, foreground=foreground)
    if scale == 'smoke':
        section['method'].update(
            prototypes=16,
            hidden_width=16,
            width=8,
            queue_length=16,
            queue_from_epoch=0.5,
        )
        section['views'] = swav_views(policy, small=2, foreground=foreground)
    if scale == 'report':
        section['method'].update(
            prototypes=512, hidden_width=512, freeze_prototypes_epochs=0.0
        )
    return section


def vicreg(scale: str, policy: str, foreground: float) -> Section:
    """Gives VICReg; the authors' weights and rate, the views of Barlow Twins."""
    section = barlow(scale, policy, foreground)
    widths = section['method']['projector_widths']
    section['method'] = dict(name='vicreg', projector_widths=widths)
    section['optimizer'] = dict(
        name='lars',
        rate_per_256=0.2,
        warmup_epochs=10.0,
        final_fraction=0.001,
        weight_decay=1e-6,
    )
    if scale == 'cpu':
        section['optimizer'] = _short(2e-3)
    return section


def _short(rate: float) -> Section:
    """Gives AdamW, which gets further than LARS in a few hundred steps.

    Rates were chosen on a held-out tenth of Tiny ImageNet by
    benchmarks/methods_learn.py.
    """
    return dict(name='adamw', rate_per_256=rate, warmup_epochs=0.0, weight_decay=1e-4)


METHODS = {'barlow': barlow, 'simclr': simclr, 'swav': swav, 'vicreg': vicreg}


def space(section: Section) -> Section:
    """Gives what a search may change of a method's section, by the values there."""
    method = section['method']
    found: Section = dict(
        optimizer=dict(
            rate_per_256=dict(times=5.0),
            weight_decay=dict(times=10.0),
        )
    )
    own: Section = {
        name: dict(times=times)
        for name, times in (('temperature', 4.0), ('redundancy_weight', 4.0))
        if name in method
    }
    if 'prototypes' in method:
        own['prototypes'] = dict(shares=(0.5, 1.0, 2.0))
    return found | (dict(method=own) if own else {})


def report(method: str, section: Section) -> Section:
    """Gives the student report's recipe: SGD, and views of the Lightly library.

    The rate is that of the library's own small-data benchmarks of SimCLR and Barlow
    Twins; for SwAV the library has Adam, the report SGD. What is not replayed: the
    library's BatchNorm by view, and the bias that its SwAV prototypes have.
    """
    optimizer = dict(
        name='sgd', rate_per_256=0.06, momentum=0.9, weight_decay=5e-4, decays='all'
    )
    return section | dict(optimizer=optimizer, views=report_views(method))
