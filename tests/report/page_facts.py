"""Facts of a page, made up, with texts that would break it if they were not escaped."""

import dataclasses

import numpy as np

from jax_mrissl.core.results import Estimate
from jax_mrissl.report.run_facts import (
    CardFacts,
    ClassDetails,
    CurvePlot,
    FactTable,
    Gallery,
    NumberDetails,
    Picture,
    ResultRow,
    ResultTable,
    RunFacts,
    StageFacts,
)

NASTY = '<script>alert("x")</script> & \'quotes\' {{ 7 * 7 }}'


def some_facts(**changes):
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    probabilities = rng.dirichlet((1, 1, 1), 30)
    line = np.arange(4.0)
    loss, right = Estimate(0.9, 0.8, 1.1), Estimate(0.5, 0.4, 0.6)
    estimates = {'log_loss': loss, 'accuracy': right}
    rows = (
        ResultRow('class prior', 'baseline', {'log_loss': Estimate(1.0)}),
        ResultRow(f'arm {NASTY}', 'arm', estimates, notes=('simulated',), chosen=True),
        ResultRow('other', 'arm', estimates, failure='under-trained, no result'),
    )
    table = ResultTable('subject', 30, ('log_loss', 'accuracy'), rows, 1.0)
    details = ClassDetails(
        label=NASTY,
        classes=('NonDemented', NASTY, 'Mild'),
        ordered=True,
        labels=labels,
        probabilities=probabilities,
        confidence=np.array([0.4, 0.8]),
        accuracy=np.array([0.5, 0.7]),
        low=np.array([0.3, 0.5]),
        high=np.array([0.7, 0.9]),
        count=np.array([15, 15]),
        calibration_error=0.1,
        log_loss_uncalibrated=1.2,
        confusion=np.arange(9).reshape(3, 3),
        curves=((NASTY, np.array([0, 0.5, 1]), np.array([0, 0.7, 1]), 0.6),),
    )
    pixels = np.full((8, 8, 1), 99, np.uint8)
    facts = RunFacts(
        title=f'run {NASTY}',
        subtitle='subtitle',
        simulated=False,
        lead=f'Right of 55 % {NASTY}',
        headline=['more'],
        alarms=['an alarm'],
        headline_metric='log_loss',
        tables=(table, dataclasses.replace(table, unit='slice', count=90)),
        table_notes=('note',),
        differences=('No difference is shown: a minus b',),
        details=details,
        told_by=f'networks {NASTY}',
        details_absent='none',
        groups=(
            FactTable(NASTY, ('subjects who are', 'n'), ((NASTY, '20'),)),
            FactTable('Of all', ('arm', '60 and over'), (('a', '0.5'),)),
        ),
        against=FactTable('Against', ('network', NASTY), (('a', '0.1'),)),
        beyond=FactTable('Beyond', ('arm', 'p'), ((NASTY, '0.5'),)),
        more=(FactTable('All metrics', ('arm', 'Brier score'), (('a', '0.5'),)),),
        galleries=(
            Gallery('Mistakes', ('note',), (Picture(pixels, NASTY, (NASTY,)),)),
        ),
        pictures_left_out=False,
        curves=(CurvePlot('Loss', 'loss', (('', line, line), (NASTY, line, line))),),
        background=('background',),
        cards=(
            CardFacts(
                'set',
                NASTY,
                'Used.',
                True,
                False,
                'ab12',
                (('Source', 'https://example.org/a?b=1&c=2'),),
            ),
            CardFacts('other set', 'Other', 'Used.', False, False, 'cd34', ()),
        ),
        leaks=(('Finetuning', 'No subject twice.'), ('Pretraining', 'Nothing seen.')),
        stages=(
            StageFacts('pretraining on Other', 'ef56', '1 x cpu', 130.0),
            StageFacts('finetuning: other', '7890', '1 x cpu', 5.0, 'other'),
        ),
        methods=(('Data', 'Of 5 files.'), ('Pretraining', 'On other images.')),
        command=f'python -m jax_mrissl.main --config={NASTY}',
        config='{"a": "<b>"}',
        versions=(('jax_mrissl', '1.0'),),
    )
    return dataclasses.replace(facts, **changes)


def number_details():
    truth = np.array([0.0, 0.5, 1.0, 2.0])
    return NumberDetails('arm, linear', truth, truth[::-1] * 0.5)
