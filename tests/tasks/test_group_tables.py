from pathlib import Path

from jax_mrissl.tasks.group_tables import (
    against_table,
    beyond_table,
    group_tables,
)
from jax_mrissl.tasks.pooling import Arm

CHOSEN = Arm('barlow', 'linear', Path())


def estimate(value):
    return {'value': value, 'low': value - 0.1, 'high': value + 0.1, 'undefined': 0}


def arm(name, mode='', **metrics):
    return {'arm': name, 'mode': mode, 'role': 'arm'} | metrics


def measured():
    arms = [
        arm('nWBV', log_loss=estimate(0.9), binary_auroc=estimate(0.7)),
        arm('barlow', 'linear', log_loss=estimate(0.8), binary_auroc=estimate(0.75)),
        arm('untrained', 'linear', log_loss=estimate(1.5)),
        arm('leak witness', accuracy=estimate(0.5)),
    ]
    group = {'subjects': 172, 'absent': '', 'prior_log_loss': 1.035, 'arms': arms}
    young = {
        'subjects': 28,
        'absent': 'all of one class: NonDemented',
        'prior_log_loss': None,
        'arms': [],
    }
    beyond = {'given': ['age', 'sex'], 'subjects': 200, 'p': 0.02}
    return {
        'subgroups': [
            {'by': 'age', 'name': 'under 60', **young},
            {'by': 'age', 'name': '60 and over', **group},
            {'by': 'sex', 'name': 'F', **group, 'subjects': 132},
        ],
        'adjustments': [
            arm('barlow', 'linear', odds_ratio=estimate(1.6)) | beyond,
            arm('untrained', 'linear', odds_ratio=estimate(1.1)) | beyond,
        ],
        'against_baselines': [
            {
                'arm': name,
                'mode': 'linear',
                'reference': reference,
                'metric': 'binary_auroc',
                'holm_p': 0.3,
                **estimate(0.05),
            }
            for name in ('barlow', 'untrained')
            for reference in ('dark pixels', 'nWBV')
        ],
        'detection': {'negative': 'NonDemented', 'positive': ['MildDemented']},
    }


FAILED = {('untrained', 'linear')}


def test_the_chosen_arm_stands_beside_each_groups_own_prior():
    first, losses, areas = group_tables(measured(), CHOSEN, FAILED)
    assert first.heads[:4] == (
        'subjects who are',
        'n',
        'log loss',
        'of their class prior',
    )
    young, old, women = first.rows
    assert young[:3] == (
        'under 60',
        '28',
        'not measured: all of one class: NonDemented',
    )
    assert old[:4] == ('60 and over', '172', '0.800 [0.700, 0.900]', '1.035')
    assert women[0] == 'sex F'
    assert {len(row) for row in first.rows} == {len(first.heads)}
    # Others: not what is no result, nor what was not measured by this metric.
    assert [row[0] for row in losses.rows] == ['nWBV', 'barlow, linear']
    assert losses.heads == ('arm', '60 and over (n = 172)', 'sex F (n = 132)')
    assert areas.rows[1][1] == '0.750 [0.650, 0.850]'


def test_groups_of_which_none_is_measured_have_a_row_that_says_why():
    few = {**measured(), 'subgroups': measured()['subgroups'][:1]}
    [table] = group_tables(few, CHOSEN, FAILED)
    assert table.rows == (
        ('under 60', '28', 'not measured: all of one class: NonDemented'),
    )
    assert len(table.heads) == 3


def test_beyond_what_is_known_only_results_are_told():
    table = beyond_table(measured(), FAILED)
    assert table.rows == (
        ('barlow, linear', 'age, sex', '200', '1.60 [1.50, 1.70]', '0.02'),
    )
    assert 'NonDemented or not' in table.notes[0]


def test_without_covariates_there_is_no_table():
    empty = {**measured(), 'subgroups': [], 'adjustments': []}
    assert group_tables(empty, CHOSEN, FAILED) == []
    assert beyond_table(empty, FAILED) is None
    # Groups, but no arm that is a result.
    assert [t.heads[0] for t in group_tables(measured(), None, FAILED)] == [
        'arm',
        'arm',
    ]


def test_networks_that_are_results_are_held_against_each_baseline():
    table = against_table(measured(), FAILED)
    assert table.heads == ('network', 'minus dark pixels', 'minus nWBV')
    cell = '0.050 [-0.050, 0.150], p = 0.3'
    assert table.rows == (('barlow, linear', cell, cell),)
    assert 'above 0 the network is better' in table.notes[0]
    assert against_table({**measured(), 'against_baselines': []}, FAILED) is None
