"""The simulated cohort, in two sizes."""

import dataclasses

from jax_mrissl.data.spec import DatasetSpec, PathPattern

DEMO = DatasetSpec(
    name='demo',
    title='Simulated brain slices (SIMULATED: no patients)',
    source='Made here by jax_mrissl.data.demo, from the MNI152 template of nilearn.',
    terms='MNI152: free use with its copyright notice.',
    layout='made by `prepare --dataset=demo`: pretrain/*.png, labelled/CLASS/*.png',
    classes=('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented'),
    targets=(0.0, 0.5, 1.0, 2.0),
    splits=('pretrain', 'labelled'),
    subject=PathPattern(r'(sub-\d+)'),
    position=PathPattern(r'slice-(\d+)'),
    channels=1,
    simulated=True,
)

SMOKE = dataclasses.replace(DEMO, name='smoke')  # few subjects: does it run at all?
