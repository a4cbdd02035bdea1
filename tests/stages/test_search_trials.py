"""Trials are drawn from their number, given up fold by fold, and survive a worker."""

import pytest

from jax_mrissl.configs import study
from jax_mrissl.core.errors import UserError
from jax_mrissl.stages import search_trials
from jax_mrissl.stages.search_results import SearchedArm
from jax_mrissl.stages.search_space import Parameter, SearchPlan, read_search
from jax_mrissl.stages.search_trials import ArmTrials, open_storage

PARAMETERS = (
    Parameter('optimizer.rate_per_256', 0.1, low=0.01, high=1.0, log=True),
    Parameter('batch_size', 64, choices=(32, 64)),
    Parameter('epochs', 20, low=10, high=30),
)


def nobody(slot):
    return False


def somebody(slot):
    return True


def arm_in(where, **changes):
    fields = dict(
        trials=6, sampler='random', pruner='median', startup_trials=2, looks=2
    )
    plan = SearchPlan(**(fields | changes), space={'barlow': PARAMETERS})
    storage = open_storage(str(where), where)
    return ArmTrials(
        storage, 'barlow brain', ['address'], plan, PARAMETERS, seed=0, first='a'
    )


def settings_of(arm):
    return [trial.settings for trial in arm.facts()]


def run_all(arm, losses, looks=()):
    """Runs what is left: by slot, final losses and those of each look."""
    while trial := arm.take():
        told = looks[trial.slot] if looks else ()
        if any(trial.look(n, {'a': found}) for n, found in enumerate(told, 1)):
            trial.end({}, 1.0)
        else:
            trial.end({'a': losses[trial.slot]}, 1.0)


@pytest.mark.parametrize('sampler', ['random', 'tpe'])
def test_the_same_seed_tries_the_same_and_first_of_all_the_config(tmp_path, sampler):
    losses = [(0.9 - 0.05 * slot, 0.8) for slot in range(6)]
    found = []
    for name in ('one', 'two'):
        arm = arm_in(tmp_path / name, sampler=sampler)
        arm.prepare(nobody)
        run_all(arm, losses)
        assert arm.is_finished()
        found.append(settings_of(arm))
    assert found[0] == found[1]
    assert found[0][0] == {p.name: p.default for p in PARAMETERS}
    rates = [settings['optimizer.rate_per_256'] for settings in found[0]]
    assert len(set(rates)) == 6 and all(0.01 <= rate <= 1 for rate in rates)
    assert all(isinstance(settings['epochs'], int) for settings in found[0])


def test_workers_share_the_budget_and_try_what_one_alone_tries(tmp_path):
    arm_in(tmp_path / 'alone').prepare(nobody)
    alone = arm_in(tmp_path / 'alone')
    run_all(alone, [(0.9,)] * 6)
    first, second = arm_in(tmp_path / 'shared'), arm_in(tmp_path / 'shared')
    taken = []
    for worker in (first, second) * 3:
        worker.prepare(somebody)
        taken.append((worker, worker.take()))
    first.prepare(somebody)
    assert first.take() is None and not first.is_finished()
    # They end in another order.
    for _, trial in reversed(taken):
        trial.end({'a': (0.9,)}, 1.0)
    assert second.is_finished()
    assert settings_of(second) == settings_of(alone)


def test_a_database_serves_as_a_file_does(tmp_path):
    alone = arm_in(tmp_path / 'journal')
    alone.prepare(nobody)
    run_all(alone, [(0.9,)] * 6)
    address = f'sqlite:///{tmp_path / "trials.db"}'
    plan = SearchPlan(6, 'random', 'median', 2, 2, {'barlow': PARAMETERS})
    for _ in range(2):
        storage = open_storage(address, tmp_path / 'unused')
        arm = ArmTrials(
            storage, 'barlow brain', ['address'], plan, PARAMETERS, seed=0, first='a'
        )
        arm.prepare(nobody)
        run_all(arm, [(0.9,)] * 6)
    assert settings_of(arm) == settings_of(alone)
    assert not (tmp_path / 'unused').exists()
    with pytest.raises(UserError, match='cannot be opened'):
        open_storage('nosuch://place', tmp_path / 'unused')


def test_a_trial_of_a_dead_worker_goes_on_with_what_it_had_found(tmp_path):
    arm = arm_in(tmp_path / 'journal')
    arm.prepare(nobody)
    died = arm.take()
    died.look(1, {'a': (0.9, 0.8)})
    other = arm_in(tmp_path / 'journal')
    other.prepare(somebody)
    assert all(other.take() for _ in range(5)) and other.take() is None
    for slot in range(1, 6):
        assert other.facts()[slot].state == 'open'
    other.prepare(lambda slot: slot != 0)
    again = other.take()
    assert (again.slot, again.settings) == (died.slot, died.settings)
    assert other.facts()[0].looks == {1: {'a': [0.9, 0.8]}}
    assert other.take() is None


def test_a_trial_that_kills_every_worker_fails_in_the_end(tmp_path):
    arm = arm_in(tmp_path / 'journal', trials=1)
    for _ in range(3):
        arm.prepare(nobody)
        assert arm.take() is not None
    arm.prepare(nobody)
    assert arm.take() is None and arm.is_finished()
    assert arm.facts()[0].reason == 'its worker died'
    arm.prepare(nobody, retry_failed=True)
    assert arm.take() is not None


def test_a_worker_that_is_told_to_end_is_no_fault_of_its_trial(tmp_path):
    arm = arm_in(tmp_path / 'journal', trials=1)
    for _ in range(5):
        arm.prepare(nobody)
        arm.take().stop()
    arm.prepare(nobody)
    arm.take().end({'a': (0.9,)}, 1.0)
    assert [trial.state for trial in arm.facts()] == ['complete']


def test_a_line_that_a_worker_died_in_spoils_no_other(tmp_path):
    arm = arm_in(tmp_path / 'journal', trials=2)
    arm.prepare(nobody)
    run_all(arm, [(0.9,)] * 2)
    with open(tmp_path / 'journal', 'a') as file:
        file.write('{"op_code": 5, "worker')
    for _ in range(2):
        more = arm_in(tmp_path / 'journal', trials=4)
        more.prepare(nobody)
        run_all(more, [(0.9,)] * 4)
        assert more.is_finished() and settings_of(more)[:2] == settings_of(arm)


def test_what_failed_is_tried_again_on_demand_alone(tmp_path):
    arm = arm_in(tmp_path / 'journal', trials=1)
    arm.prepare(nobody)
    arm.take().fail('the loss is not finite', 3.0)
    arm.prepare(nobody)
    assert arm.take() is None and arm.is_finished()
    [trial] = arm.facts()
    assert (trial.state, trial.reason, trial.seconds) == (
        'failed',
        'the loss is not finite',
        3.0,
    )
    arm.prepare(nobody, retry_failed=True)
    arm.take().end({'a': (0.9,)}, 1.0)
    assert [trial.state for trial in arm.facts()] == ['complete']


def test_more_trials_go_on_from_those_that_were_done(tmp_path):
    few = arm_in(tmp_path / 'journal', trials=2)
    few.prepare(nobody)
    run_all(few, [(0.9,)] * 2)
    more = arm_in(tmp_path / 'journal', trials=4)
    more.prepare(nobody)
    assert [trial.state for trial in more.facts()] == ['complete'] * 2 + ['open'] * 2
    assert settings_of(few) == settings_of(more)[:2]


# Of two folds, the final losses of six trials, and what they were at the first look.
FINAL = [(0.90, 0.90), (0.80, 0.80), (0.70, 0.95), (0.99, 0.99), (0.60, 0.60), (1, 1)]
LOOKS = [(0.95, 0.95), (0.90, 0.90), (0.80, 1.00), (1.10, 1.10), (0.70, 0.70), (1, 1)]


def searched(where, final, looks):
    arm = arm_in(where)
    arm.prepare(nobody)
    run_all(arm, final, [(look,) for look in looks])
    trials = tuple(arm.facts())
    return SearchedArm('barlow', 'brain', PARAMETERS, trials, ({},) * len(trials))


def test_a_trial_ends_when_every_fold_has_given_it_up(tmp_path):
    arm = searched(tmp_path / 'journal', FINAL, LOOKS)
    states = [trial.state for trial in arm.trials]
    # The third is bad for the second fold alone, the fourth and the last for both.
    assert states == ['complete'] * 3 + ['pruned', 'complete', 'pruned']
    assert arm.trials[2].given_up == {'a': [None, 1]}
    assert arm.trials[2].loss('a', 0) == 0.70 and arm.trials[2].loss('a', 1) is None
    assert arm.by_fold('a', 2) == [4, 4] and arm.on_average('a') == 4
    assert arm.by_fold('b', 2) == [None, None]


def test_what_a_fold_chooses_other_folds_do_not_decide(tmp_path):
    """Whatever the second fold finds, the first chooses the same: no label leaks."""
    kept = searched(tmp_path / 'one', FINAL, LOOKS)
    turned = [(first, 2 - second) for first, second in FINAL]
    looks = [(first, 2 - second) for first, second in LOOKS]
    other = searched(tmp_path / 'two', turned, looks)
    assert [t.settings for t in other.trials] == [t.settings for t in kept.trials]
    assert other.by_fold('a', 2)[0] == kept.by_fold('a', 2)[0] == 4
    assert other.by_fold('a', 2)[1] != kept.by_fold('a', 2)[1]
    # What the first fold has given up stays so, also where the second went on with it.
    for one, two in zip(kept.trials, other.trials, strict=True):
        assert one.given_up['a'][0] == two.given_up['a'][0]


def test_pruning_can_be_left_out(tmp_path):
    arm = arm_in(tmp_path / 'journal', pruner='none')
    arm.prepare(nobody)
    run_all(arm, FINAL, [(look,) for look in LOOKS])
    assert {trial.state for trial in arm.facts()} == {'complete'}


def test_a_missing_optuna_is_answered_in_words(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
    with pytest.raises(UserError, match=r"pip install -e '.\[search\]'"):
        search_trials.open_storage('', tmp_path / 'journal')


@pytest.mark.parametrize('scale', ['', 'cpu', 'demo', 'smoke', 'report'])
def test_every_scale_has_a_space_around_its_own_settings(scale):
    config = study.get_config(scale)
    plan = read_search(config)
    known = {'simclr', 'barlow', 'swav'}
    assert set(plan.space) == known | (set() if scale == 'report' else {'vicreg'})
    for method, parameters in plan.space.items():
        names = {parameter.name for parameter in parameters}
        length = 'images_seen' if config.pretrain.images_seen else 'epochs'
        assert names >= {'optimizer.rate_per_256', 'batch_size', length}, method


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'trials': 0}, 'search.trials: at least 1'),
        ({'sampler': 'tpee'}, "Did you mean 'tpe'"),
        ({'space.barlow.method.redundancy_wieght': {'low': 1}}, 'redundancy_weight'),
        ({'space.barlow.epochs': {'low': 3, 'high': 1}}, 'low is not below high'),
        ({'space.barlow.epochs': {'low': 301, 'high': 400}}, '300, the value of the'),
        ({'space.barlow.epochs': {'choices': (1, 2)}}, 'is none of 1, 2'),
        ({'space.barlow.epochs': {'low': 0, 'high': 400, 'log': True}}, 'above 0'),
        ({'space.barlow.epochs': {'low': 0, 'hihg': 400}}, "Did you mean 'high'"),
        ({'space.barlow.epochs': 300}, r'give dict\(low='),
        ({'space.barlow.epochs': {'times': 1.0}}, 'times is above 1'),
        ({'space.barlow.positives': {'times': 2.0}}, "'image' is no number"),
        ({'space.barlow.images_seen': {'times': 2.0}}, 'has no multiples'),
        ({'space.barlow': {}}, 'nothing to search'),
        ({'space.barlwo': {'epochs': {'choices': (300,)}}}, "Did you mean 'barlow'"),
    ],
)
def test_mistakes_in_the_space_are_answered_in_words(change, message):
    config = study.get_config()
    for dotted, value in change.items():
        *path, last = dotted.split('.')
        place = config.search
        for name in path:
            place = place[name]
        with place.unlocked(), place.ignore_type():
            place[last] = value
    with pytest.raises(UserError, match=message):
        read_search(config)


def test_what_would_have_no_effect_is_refused():
    config = study.get_config()
    config.pretrain.images_seen = 50_000
    config.search.space.barlow.epochs = {'shares': (0.5, 1.0)}
    with pytest.raises(UserError, match='search images_seen'):
        read_search(config)
    config = study.get_config()
    config.domains.brain.epochs = 7
    with pytest.raises(UserError, match=r'cannot be searched: .*length\.shares="\(\)"'):
        read_search(config)
    for method in config.study.methods:
        config.search.space[method].length.shares = ()
    names = [parameter.name for parameter in read_search(config).space['barlow']]
    assert 'epochs' not in names and 'batch_size' in names


def test_a_space_goes_by_what_flags_made_of_the_config():
    config = study.get_config()
    config.pretrain.epochs = 21
    config.methods.barlow.optimizer.rate_per_256 = 7.0
    found = {p.name: p for p in read_search(config).space['barlow']}
    assert found['epochs'].choices == (10, 21)
    rate = found['optimizer.rate_per_256']
    assert (rate.low, rate.default, rate.high, rate.log) == (1.4, 7.0, 35.0, True)
    config.pretrain.images_seen = 50_000
    found = {p.name: p for p in read_search(config).space['swav']}
    assert found['images_seen'].choices == (25_000, 50_000) and 'epochs' not in found
    assert found['method.prototypes'].choices == (128, 256, 512)
