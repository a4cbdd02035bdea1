"""A study's config becomes experiments, the same that `main` would run."""

import pytest

from jax_mrissl.configs import simclr_natural_brain, study, untrained
from jax_mrissl.configs.base import SCALES
from jax_mrissl.core.errors import UserError
from jax_mrissl.stages.grid import Encoder, cells, read_grid
from jax_mrissl.tasks.from_config import read_experiment


def all_cells(config, extra=None):
    return cells(config, read_grid(config), extra=extra or {})


@pytest.mark.parametrize('scale', SCALES)
def test_every_scale_has_the_reports_three_tables(scale):
    found = all_cells(study.get_config(scale))
    # 5 domains and two orders of two, 3 methods, and the untrained; 3 and 4 classes.
    assert len(found) == 2 * (7 * 3 + 1)
    assert len({cell.folder for cell in found}) == len(found)
    assert {cell.setting.target for cell in found} == {'severity3', 'severity4'}
    for cell in found:
        assert len(cell.experiment.chain) == cell.encoder.chain.count('>') + bool(
            cell.encoder.chain
        )
        simulated = scale in ('demo', 'smoke')
        assert (cell.experiment.finetune.data.name == scale) == simulated


def test_a_cell_is_what_main_runs():
    found = {cell.folder: cell.experiment for cell in all_cells(study.get_config())}
    own = found['simclr_natural-then-brain_severity3_seed0']
    other = read_experiment(simclr_natural_brain.get_config())
    assert [p.identity() for p in own.chain] == [p.identity() for p in other.chain]
    assert own.common == other.common
    assert own.finetune.identity('linear') == other.finetune.identity('linear')
    alone = found['severity3_seed0']
    other = read_experiment(untrained.get_config())
    assert alone.chain == () and alone.common == other.common


def test_domains_on_simulated_images_are_different_stages():
    found = all_cells(study.get_config('smoke'))
    chains = [
        cell.experiment.chain[0].identity()
        for cell in found
        if cell.encoder.method == 'barlow'
        and '>' not in cell.encoder.chain
        and cell.setting.target == 'severity3'
    ]
    assert len(chains) == 5
    # 'masked' alone looks for brain in its crops; the others have policies.
    assert len({repr(chain) for chain in chains}) == 5


def test_axes_multiply_and_shares_are_of_the_last_domain():
    config = study.get_config()
    config.study.update(
        methods=('barlow',),
        chains=('natural>brain',),
        targets=('severity3',),
        seeds=(0, 1),
        label_fractions=(0.1, 1.0),
        pretraining_fractions=(0.25, 1.0),
    )
    config.domains.natural.epochs = 7
    found = all_cells(config, {Encoder(): ('full',)})
    assert len(found) == 2 * 2 * (2 + 1)
    cell = next(c for c in found if c.encoder.fraction == 0.25 and c.seed == 1)
    assert cell.folder == (
        'barlow_natural-then-brain_severity3_seed1_labels10_images25'
    )
    first, last = cell.experiment.chain
    assert (first.data.fraction, last.data.fraction) == (1.0, 0.25)
    assert (first.epochs, last.epochs) == (7, config.pretrain.epochs)
    assert cell.experiment.common.seed == 1
    assert cell.experiment.finetune.label_fraction == 0.1
    assert cell.experiment.finetune.modes == ('linear',)
    assert found[0].experiment.finetune.modes == ('linear', 'full')


@pytest.mark.parametrize(
    ('whose', 'expected'),
    [('none', (False, False)), ('finalists', (True, False)), ('all', (True, True))],
)
def test_saliency_is_of_whose_networks_the_study_says(whose, expected):
    config = study.get_config('smoke')
    config.study.update(
        methods=('barlow',), chains=('brain',), targets=('severity3',), saliency=whose
    )
    found = all_cells(config, {Encoder(): ('full',)})
    assert tuple(cell.experiment.report.saliency for cell in found) == expected


def test_a_domain_needs_views_of_each_method_and_images():
    config = study.get_config()
    del config.domains.brain.views['swav']
    with pytest.raises(UserError, match=r'domains\.brain\.views has no swav'):
        all_cells(config)
    config = study.get_config()
    del config.domains.brain.data
    with pytest.raises(UserError, match=r'domains\.brain\.data is missing'):
        all_cells(config)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('methods', ('barlwo',), "Did you mean 'barlow'"),
        ('chains', ('natural>brian',), "Did you mean 'brain'"),
        ('targets', ('severity5',), 'Known: .*severity3, severity4'),
        ('modes', ('liner',), "Did you mean 'linear'"),
        ('modes', (), 'modes is empty'),
        ('seeds', (1, 1), 'seeds names one thing twice'),
        ('finalists', -1, 'negative'),
        ('saliency', 'finalist', "Did you mean 'finalists'"),
        ('label_fractions', (1.5,), 'label_fraction is 1.5'),
        ('pretraining_fractions', (0.0,), 'fraction is 0'),
    ],
)
def test_mistakes_are_answered_in_words(field, value, message):
    config = study.get_config()
    config.study[field] = value
    with pytest.raises(UserError, match=message):
        all_cells(config)
