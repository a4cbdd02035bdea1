import dataclasses
import json

import pytest

from jax_mrissl.core.results import SIMULATED, UNDER_TRAINED, ArmResult, Estimate
from jax_mrissl.report.table import (
    WIDTH,
    estimate_text,
    results_markdown,
    results_table,
)

FOOT = ('n = 200 subjects, 6,400 slices. ' * 5, 'The second.')


def row(arm='Barlow Twins on brain MRI', unit='subject', notes=(), **changes):
    estimates = {
        'log_loss': Estimate(0.9081, 0.8612, 0.9571),
        'accuracy': Estimate(0.545, 0.48, 0.605),
        'macro_auroc': Estimate(0.6995, 0.6424, 0.7545),
    }
    estimates.update({n: changes.pop(n) for n in estimates if n in changes})
    fields = {
        'arm': arm,
        'mode': 'linear',
        'unit': unit,
        'subjects': 200,
        'slices': 6400,
        'estimates': estimates,
        'prior_log_loss': 0.9986,
        'training_log_loss': 0.7,
        'notes': notes,
    }
    return ArmResult(**{**fields, **changes})


def prior(unit='subject'):
    return row(
        'class prior',
        unit,
        mode='',
        log_loss=Estimate(0.9986),
        accuracy=Estimate(0.5),
        macro_auroc=Estimate(0.5),
        training_log_loss=None,
    )


def arms():
    """Rows of both units, slices first, as they need not come in order."""
    failed = (UNDER_TRAINED, SIMULATED)
    return [
        prior('slice'),
        row(unit='slice'),
        prior(),
        row(),
        row('SimCLR on CT', mode='full', notes=failed, training_log_loss=2.329),
        row('an arm with a name so long that it has no place', notes=(SIMULATED,)),
    ]


def test_columns_stand_under_their_heads():
    lines = results_table([prior(), row()], title='A study').splitlines()
    assert lines[0] == 'A study'
    assert lines[2] == 'By subject (n = 200)'
    head, guess, arm = lines[3:6]
    for name, of_guess, of_arm in (
        ('log loss', '0.999', '0.908 [0.861, 0.957]'),
        ('accuracy, %', '50.0', '54.5 [48.0, 60.5]'),
        ('macro AUROC', '0.500', '0.700 [0.642, 0.754]'),
    ):
        at = head.index(name)
        assert guess[at:].startswith(of_guess)
        assert arm[at:].startswith(of_arm)
    assert guess.startswith('class prior ')
    assert arm.startswith('Barlow Twins on brain MRI')


def test_says_how_many_by_subject_first_then_by_slice():
    lines = results_table(arms(), title='A study').splitlines()
    subject = lines.index('By subject (n = 200)')
    by_slice = lines.index('By slice (n = 6,400, of 200 subjects)')
    assert subject < by_slice
    # The given order within a unit is kept: the class prior first.
    assert lines[subject + 2].startswith('class prior')
    assert lines[by_slice + 2].startswith('class prior')


@pytest.mark.parametrize('notes', [(), (SIMULATED,), (SIMULATED, 'leaky ' * 30)])
@pytest.mark.parametrize('length', [1, 20, 90])
def test_fits_the_terminal(notes, length):
    rows = [*arms(), row('x' * length, notes=notes), row('word ' * length, notes=notes)]
    text = results_table(rows, title='title ' * 40, foot=FOOT)
    assert max(map(len, text.splitlines())) <= WIDTH == 100


def test_an_under_trained_arm_shows_no_result():
    for lay_out in (results_table, results_markdown):
        text = lay_out([row(notes=(UNDER_TRAINED,), training_log_loss=2.329)], title='')
        assert 'under-trained: its training log loss ended at 2.3290' in text
        assert '0.908' not in text and '54.5' not in text


def test_a_diverged_arm_says_so():
    text = results_table(
        [row(notes=(UNDER_TRAINED,), training_log_loss=None)], title=''
    )
    assert 'ended at a loss that is not finite' in text


def test_simulated_stands_with_every_arm_it_belongs_to():
    rows = [row(f'arm {i}', notes=(SIMULATED,)) for i in range(4)]
    assert results_table(rows, title='').count(SIMULATED) == 4
    assert results_markdown(rows, title='').count(SIMULATED) == 4


def test_a_long_name_and_the_foot_are_kept_whole():
    text = results_table(arms(), title='A study', foot=FOOT)
    words = text.replace(',', ' ').split()
    assert set(arms()[-1].arm.split()) <= set(words)
    assert text.rstrip().endswith('The second.')
    assert ' '.join(words).count('n = 200 subjects 6 400 slices.') == 5


def test_markdown_has_the_same_numbers_in_five_columns():
    text = results_markdown(arms(), title='A study', foot=('One.', 'Two.'))
    assert text.startswith('# A study\n') and text.endswith('- One.\n- Two.\n')
    table = [line for line in text.splitlines() if line.startswith('|')]
    assert len(table) == 2 * 2 + len(arms())
    assert {line.replace('\\|', '').count('|') for line in table} == {6}
    for number in ('0.999', r'0.908 \[0.861, 0.957\]', r'54.5 \[48.0, 60.5\]'):
        assert number in text


def test_markdown_keeps_marks_of_a_name():
    text = results_markdown([row('a|b*c_<script>')], title='#1 [x]')
    assert r'a\|b\*c\_\<script\>' in text
    assert r'# \#1 \[x\]' in text


@pytest.mark.parametrize(
    ('estimate', 'expected'),
    [
        (Estimate(0.5), '0.500'),
        (Estimate(-0.0312, -0.05, 0.01), '-0.031 [-0.050, 0.010]'),
        (Estimate(None, undefined=2000), 'undefined'),
    ],
)
def test_estimates_as_text(estimate, expected):
    assert estimate_text(estimate) == expected


@pytest.mark.parametrize('given', [row(notes=(SIMULATED,)), prior()])
def test_a_row_is_plain_json(given):
    stored = json.loads(json.dumps(given.to_json(), allow_nan=False))
    for name, estimate in given.estimates.items():
        assert Estimate(**stored[name]) == estimate
    assert stored['notes'] == list(given.notes)
    assert (stored['arm'], stored['role']) == (given.arm, 'arm')


def test_numbers_have_their_own_columns():
    numbers = {
        name: Estimate(0.1, -0.25, 0.35) for name in ('r2', 'mae', 'rmse', 'spearman')
    }
    failed = row('failed', notes=(UNDER_TRAINED,), estimates=numbers)
    failed = dataclasses.replace(failed, training_error_share=1.02)
    rows = [
        row('dark pixels', mode='', estimates=numbers, role='baseline'),
        row('x' * 26, estimates=numbers),
        failed,
        row('witness', mode='', estimates={'mae': Estimate(0.5)}, role='control'),
    ]
    lines = results_table(rows, title='').splitlines()
    [head] = [line for line in lines if 'R²' in line]
    assert 'Spearman' in head and 'root' not in head and max(map(len, lines)) <= 100
    text = '\n'.join(lines)
    assert 'under-trained: its training error ended at 1.020 of the variance' in text
    [witness] = [line for line in lines if line.startswith('witness')]
    assert witness.split()[1:4] == ['–', '0.500', '–']
