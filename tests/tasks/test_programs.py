"""Equal declarations share their programs; others do not."""

import jax
import pytest
from conftest import smoke_config

from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.pretrain import set_up
from jax_mrissl.tasks.programs import initial_program, training_program
from jax_mrissl.train.optimizer import AdamW, tunable


class Set:
    """What `set_up` asks of a prepared set: 40 gray images."""

    image_shape, groups, name = (48, 48, 1), range(40), 'mine'

    def __len__(self):
        return 40


def declared(name, **changes):
    experiment = read_experiment(smoke_config('data', name, **changes))
    [plan] = experiment.chain
    return set_up(plan, experiment.common, Set())


def programs(training):
    given = training.objective, training.optimizer
    return (
        training_program(*given, training.parallel, chunks=training.plan.chunks),
        initial_program(*given, (16, 16, 3)),
    )


@pytest.mark.parametrize('name', ['barlow_brain', 'simclr_brain', 'swav_brain'])
def test_experiments_that_differ_in_their_seed_share_programs(name):
    one, two = (declared(name, seed=seed) for seed in (0, 1))
    assert one.objective is not two.objective
    assert programs(one) == programs(two)


@pytest.mark.parametrize(
    'changes',
    [
        dict(pretrain__epochs=3),  # another schedule
        dict(pretrain__optimizer__weight_decay=0.5),
        dict(pretrain__image_size=24),
        dict(pretrain__method__redundancy_weight=0.5),
        dict(encoder__zero_init_residual=True),
    ],
)
def test_what_changes_a_number_changes_the_programs(changes):
    step, initial = programs(declared('barlow_brain'))
    other_step, other_initial = programs(declared('barlow_brain', **changes))
    assert step is not other_step and initial is not other_initial


def test_what_changes_the_step_alone():
    step, _ = programs(declared('barlow_brain'))
    for changes in (dict(pretrain__chunks=2), dict(parallel='pmap')):
        assert programs(declared('barlow_brain', **changes))[0] is not step


def test_an_equal_rule_is_the_same_and_starts_the_same():
    rule = AdamW(rate_per_256=0.1)
    schedule = rule.schedule(batch_size=8, steps_per_epoch=2, steps=4)
    again = AdamW(rate_per_256=0.1)
    assert tunable(rule, schedule) is tunable(again, schedule)
    other = tunable(AdamW(rate_per_256=0.1, weight_decay=0.1), schedule)
    assert other is not tunable(rule, schedule)
    assert jax.tree.leaves(other.init({'w': jax.numpy.ones(2)}))
