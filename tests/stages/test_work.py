"""Jobs are done once, in order; what fails stops what needs it, and nothing else."""

import pytest

from jax_mrissl.core.errors import UserError
from jax_mrissl.stages.claims import Claims
from jax_mrissl.stages.plan import Job
from jax_mrissl.stages.stage import Stage
from jax_mrissl.stages.store import Store
from jax_mrissl.stages.work import _Queue, do_jobs


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def done():
    return []


def job(name, done, *inputs, error=None):
    stage = Stage('finetune', {'name': name}, tuple(i.stage for i in inputs))

    def run(folder):
        done.append(name)
        if error:
            raise error
        return {'name': name}

    return Job(stage, run, name)


def test_each_is_done_once_after_what_it_needs(store, done):
    first = job('first', done)
    second = job('second', done, first)
    again = job('first', done)
    assert do_jobs([second, first, again], store) == []
    assert done == ['first', 'second']
    assert store.facts(first.stage) == {'name': 'first'}
    do_jobs([first, second], store)
    assert done == ['first', 'second']


def test_an_error_is_raised_and_what_failed_is_tried_again(store, done):
    bad = job('bad', done, error=UserError('no'))
    for _ in range(2):
        with pytest.raises(UserError, match='no'):
            do_jobs([bad, job('after', done)], store)
    assert done == ['bad', 'bad']


def test_the_rest_goes_on_where_one_fails(store, done):
    bad = job('bad', done, error=UserError('it diverged'))
    heir = job('heir', done, bad)
    failures = do_jobs([bad, heir, job('other', done)], store, go_on=True)
    assert {f.job.what: f.error for f in failures} == {
        'bad': 'it diverged',
        'heir': 'It needs: bad.',
    }
    assert done == ['bad', 'other']
    # It is not tried again before that is asked for.
    assert len(do_jobs([bad, heir], store, go_on=True)) == 2
    assert done == ['bad', 'other']
    store.retry(bad.stage)
    good = job('bad', done)
    assert do_jobs([good, job('heir', done, good)], store, go_on=True) == []
    assert done == ['bad', 'other', 'bad', 'heir']
    assert store.failure(good.stage) == ''


def test_an_error_of_ours_is_told_with_its_trace(store, done):
    bad = job('bad', done, error=ZeroDivisionError('oh'))
    [failure] = do_jobs([bad], store, go_on=True)
    assert 'ZeroDivisionError: oh' in failure.error
    assert 'test_work.py' in failure.error


def test_looking_at_what_another_does_leaves_nothing_behind(store, done):
    one = job('one', done)
    queue = _Queue({one.stage.address: one}, store, Claims(), go_on=True)
    with Claims().take(store.folder(one.stage)):
        for _ in range(3):
            assert not queue._can_claim(one)
    assert not queue._claim._exit_callbacks
