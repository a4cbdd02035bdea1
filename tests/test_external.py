"""A finished run on another labelled set, at smoke scale."""

import numpy as np
import pytest
from conftest import run_module, smoke_config, write_cohort, write_pngs
from sklearn.metrics import log_loss, roc_auc_score

from jax_mrissl.core.errors import UserError
from jax_mrissl.core.run_dir import read_json
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.data.spec import PathPattern
from jax_mrissl.stages.run import run_experiment
from jax_mrissl.tasks.external import evaluate_elsewhere
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.opened_run import open_run
from jax_mrissl.tasks.predict import predict

CLASSES = ('NonDemented', 'VeryMildDemented', 'MildDemented', 'ModerateDemented')


@pytest.fixture(scope='module')
def finished(cohort, stock, tmp_path_factory):
    """A run, and its data_dir with two more sets: `elsewhere` of others, `own`."""
    workdir = stock(tmp_path_factory.mktemp('run'))
    config = smoke_config(cohort, name='untrained')
    config.finetune.modes = ('linear', 'full')
    run_experiment(read_experiment(config), workdir)
    root = tmp_path_factory.mktemp('raw')
    write_cohort(root / 'cohort', seed=5)
    subject = PathPattern(r'(sub-\d+)')
    # Classes in another order, and one of them missing.
    classes = (CLASSES[2], CLASSES[0], CLASSES[1])
    for name, folder in (('elsewhere', root / 'cohort'), ('own', cohort / 'raw/smoke')):
        raw = root / name
        raw.mkdir()
        for label in classes:
            (raw / label).symlink_to(folder / 'labelled' / label)
        prepare_dataset(
            'folder',
            [raw],
            cohort,
            canvas=40,
            workers=1,
            own=OwnFolder(name, classes, subject),
        )
    return open_run(workdir)


@pytest.fixture
def as_classes(finished):
    """The run with a task that takes a set's own classes, by their names."""
    told = dict(finished.told)
    told['task'] = {
        'name': 'classes',
        'classes': ['NonDemented', 'VeryMildDemented', 'MildDemented'],
        'kind': 'classes',
        'values': [],
    }
    return type(finished)(finished.workdir, told)


@pytest.mark.parametrize('mode', ['linear', 'full'])
def test_metrics_are_those_of_the_folds_mean(as_classes, cohort, tmp_path, mode):
    """Against scikit-learn, on what `predict` says of the same files, by class name."""
    text = evaluate_elsewhere(as_classes, 'elsewhere', cohort, mode=mode, out=tmp_path)
    assert 'class prior' in text and 'n = 15 subjects, 45 slices' in text
    assert 'No image of it shows a subject' in text and 'SIMULATED' in text
    told = read_json(tmp_path / 'metrics.json')
    prepared = open_prepared(cohort, 'elsewhere')
    with np.load(tmp_path / 'predictions.npz') as stored:
        answers, labels, groups = (stored[n] for n in ('answers', 'labels', 'groups'))
    order = [2, 0, 1]  # stored classes, in the run's numbers
    np.testing.assert_array_equal(labels, np.array(order)[prepared.labels])
    ids = np.unique(groups)
    means = np.stack([answers[groups == one].mean(0) for one in ids])
    truth = np.array([labels[groups == one][0] for one in ids])
    found = told['details']['subject']
    assert found['log_loss']['value'] == pytest.approx(log_loss(truth, means), rel=1e-6)
    auroc = roc_auc_score(truth, means, multi_class='ovr', labels=[0, 1, 2])
    assert found['macro_auroc']['value'] == pytest.approx(auroc)
    low, high = found['log_loss']['low'], found['log_loss']['high']
    assert low <= found['log_loss']['value'] <= high
    assert set(found) >= {'sensitivity', 'specificity', 'ppv', 'binary_auroc'}
    shares = {(row['arm'], row['unit']) for row in told['results']}
    assert ('class prior', 'subject') in shares and len(shares) == 4


def test_answers_are_those_of_predict(finished, cohort, tmp_path):
    """On the labelled set itself, which has to be allowed: tested folds alone speak."""
    text = evaluate_elsewhere(
        finished, 'smoke', cohort, split='labelled', allow_overlap=True, out=tmp_path
    )
    assert 'OVERLAP ALLOWED' in text
    with np.load(tmp_path / 'predictions.npz') as stored:
        ours = stored['answers']
        assert (stored['trained_on'] == 2).all()
    theirs = predict(finished, [cohort / 'raw/smoke/labelled'], workers=1).images
    theirs = np.array([image.answer for image in theirs])
    order = [np.lexsort(np.round(rows, 5).T) for rows in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-5)
    # The same as the run's own table says of this arm.
    own = next(
        row
        for row in read_json(finished.workdir / 'metrics.json')['results']
        if (row['arm'], row['mode'], row['unit']) == ('untrained', 'full', 'subject')
    )
    found = read_json(tmp_path / 'metrics.json')['details']['subject']
    assert found['log_loss']['value'] == pytest.approx(own['log_loss']['value'], 1e-4)


def test_subjects_of_the_training_are_refused(finished, as_classes, cohort, tmp_path):
    for run, name in ((finished, 'smoke'), (as_classes, 'own')):
        with pytest.raises(UserError, match='is no new set for this run') as error:
            evaluate_elsewhere(run, name, cohort, out=tmp_path)
        assert '--allow_overlap' in str(error.value)


def test_sets_that_are_gone_are_named(as_classes, cohort, tmp_path):
    """Then equal pixels alone can be found; an own copy still is."""
    for name in ('elsewhere', 'own'):
        (tmp_path / name).symlink_to(cohort / name)
    text = evaluate_elsewhere(as_classes, 'elsewhere', tmp_path, mode='linear')
    assert 'NOT COMPARED with smoke' in text
    assert list((as_classes.workdir / 'external').glob('elsewhere-all-*/results.md'))
    with pytest.raises(UserError, match='45 of its 45 labelled images'):
        evaluate_elsewhere(as_classes, 'own', tmp_path)


def test_mistakes_are_answered_in_words(finished, cohort, tmp_path):
    given = dict(run=finished, dataset='elsewhere', data_dir=cohort)
    for changes, words in (
        (dict(dataset='none'), 'not prepared'),
        (dict(dataset='elsewhere'), 'needs the four classes'),
        (dict(dataset='smoke', arm='x'), 'no arm'),
        (dict(dataset='smoke', split='pretrain'), 'No image of smoke has a label'),
    ):
        with pytest.raises(UserError, match=words):
            evaluate_elsewhere(**(given | changes))
    rng = np.random.default_rng(0)
    write_pngs(
        tmp_path / 'raw',
        {
            f'{name}/{name}-{i}.png': rng.integers(0, 255, (20, 20)).astype(np.uint8)
            for name in ('NonDemented', 'tumour')
            for i in range(3)
        },
    )
    prepare_dataset(
        'folder',
        [tmp_path / 'raw'],
        tmp_path,
        canvas=32,
        workers=1,
        own=OwnFolder('odd', ('NonDemented', 'tumour'), PathPattern(r'(\d)\.png')),
    )
    told = dict(finished.told)
    told['task'] = told['task'] | {'name': 'classes'}
    with pytest.raises(UserError, match='does not tell: tumour'):
        evaluate_elsewhere(type(finished)(finished.workdir, told), 'odd', tmp_path)


def test_the_command(finished, cohort, tmp_path):
    given = [f'--workdir={finished.workdir}', '--dataset=smoke', f'--data_dir={cohort}']
    done = run_module(
        'evaluate',
        *given,
        '--split=labelled',
        '--mode=linear',
        '--allow_overlap',
        f'--out={tmp_path}/x',
    )
    assert done.returncode == 0, done.stderr
    assert 'not a medical device' in done.stdout
    assert (tmp_path / 'x/results.md').exists()
    failed = run_module('evaluate', *given[:2])
    assert failed.returncode == 1 and '--data_dir is missing' in failed.stderr
