"""What weights from outside were trained on counts as seen, where it is known."""

import numpy as np
import pytest
from conftest import smoke_config, textures, write_pngs

from jax_mrissl.audit.overlap import find_overlap
from jax_mrissl.core.errors import UserError
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_fingerprint, open_prepared
from jax_mrissl.data.spec import PathPattern
from jax_mrissl.stages.plan import Part, _ancestors, plan_experiment
from jax_mrissl.stages.store import Store
from jax_mrissl.tasks.from_config import read_experiment


def test_images_of_the_lineage_are_found_by_their_fingerprints(twins_dir, tmp_path):
    others = open_prepared(twins_dir, 'others')
    parent = {'params': {'data': others.fingerprint, 'split': 'all'}}
    lineage = {
        'params': {'data': 'of a set that is not here', 'split': 'all'},
        'parents': [parent, {'params': {'file': 'weights'}}],
    }
    [ancestor] = _ancestors(lineage, str(twins_dir))
    assert (ancestor.name, len(ancestor.prepared)) == ('others', 33)
    tested = Part('tested', 'all', open_prepared(twins_dir, 'tested'))
    overlap = find_overlap([ancestor], tested, tmp_path, spare=tmp_path)
    assert overlap.images == 3
    assert _ancestors({}, str(twins_dir)) == []


def test_a_fingerprint_that_is_not_there_is_none(twins_dir):
    others = open_prepared(twins_dir, 'others')
    assert open_fingerprint(twins_dir, 'unknown', 'all') is None
    assert open_fingerprint(twins_dir, others.fingerprint, 'no_such_split') is None
    assert open_fingerprint(twins_dir / 'nowhere', others.fingerprint, 'all') is None


def planned(twins_dir, tmp_path, **changes):
    fields = dict(
        finetune__task='classes',
        finetune__data__name='tested',
        finetune__data__split='all',
        finetune__folds=3,
        pretrain__data__name='others',
        pretrain__data__split='all',
        pretrain__batch_size=8,
        pretrain__watch__images=8,
    )
    return plan_experiment(
        read_experiment(smoke_config(twins_dir, **fields | changes)),
        Store(tmp_path / 'stages'),
        spare=tmp_path,
    )


def test_who_is_tested_is_left_out_of_pretraining_with_all_images(twins_dir, tmp_path):
    with pytest.raises(UserError, match=r'overlap=leave_out.*overlap=allow'):
        planned(twins_dir, tmp_path)
    allowed = planned(twins_dir, tmp_path, overlap='allow')
    assert (len(allowed.pretraining[0]), allowed.overlap.subjects) == (33, 3)
    assert [p.epochs for p in allowed.experiment.chain] == [2]
    clean = planned(twins_dir, tmp_path, overlap='leave_out')
    [left] = clean.pretraining
    assert (len(left), clean.overlap.left_out, clean.overlap.images) == (30, 3, 0)
    assert not {*left.groups} & {*left.left_out} and len(left.left_out) == 2
    # Other images, another stage; its weights are known to be clean wherever they go.
    stages = [
        next(job.stage for job in p.jobs if job.stage.kind == 'pretrain')
        for p in (allowed, clean)
    ]
    assert stages[0].address != stages[1].address
    parts = [_ancestors(stage.to_json(), str(twins_dir))[0] for stage in stages]
    tested = Part('tested', 'all', open_prepared(twins_dir, 'tested'))
    seen = [
        find_overlap([part], tested, tmp_path, spare=tmp_path).images for part in parts
    ]
    assert seen == [3, 0]


@pytest.mark.parametrize('labelled', [0, 6])
@pytest.mark.parametrize('task', ['regression', 'ordinal'])
def test_who_is_tested_by_a_number_alone_is_tested(tmp_path, task, labelled):
    """Whether or not a subject has a class, too."""
    pictures = textures(24, seed=3)
    names = [f'sub-{i:02d}_{k}' for i in range(12) for k in range(2)]
    write_pngs(
        tmp_path / 'raw',
        {f'{name}.png': one for name, one in zip(names, pictures, strict=True)},
    )
    lines = [
        f'{name},{i // 2 % 3},{"ab"[i // 2 % 2] if i // 2 < labelled else ""}'
        for i, name in enumerate(names)
    ]
    table = tmp_path / 'facts.csv'
    table.write_text('\n'.join(['file,target,label', *lines]))
    own = OwnFolder('mine', (), PathPattern(r'(sub-\d+)'), table)
    prepare_dataset(
        'folder', [tmp_path / 'raw'], tmp_path, canvas=32, workers=1, own=own
    )
    fields = dict(finetune__task=task, finetune__data__name='mine')
    for overlap in ('refuse', 'leave_out'):
        with pytest.raises(UserError, match=r'24 of the 24 lab|leaves none to pre'):
            planned(
                tmp_path,
                tmp_path,
                pretrain__data__name='mine',
                overlap=overlap,
                **fields,
            )


def test_a_subject_is_left_out_with_all_its_images(twins_dir):
    others = open_prepared(twins_dir, 'others')
    [twice] = [g for g in np.unique(others.groups) if (others.groups == g).sum() == 2]
    left = others.without([twice])
    assert len(left) == 31 and left.left_out == (twice,)
    assert left.without([twice, 'nobody']) is left
    fewer = left.without(left.groups[:1])
    assert set(fewer.left_out) == {twice, left.groups[0]}


def test_a_set_of_tested_subjects_alone_leaves_nothing(twins_dir, tmp_path):
    with pytest.raises(UserError, match='leaves none to pretrain on'):
        planned(twins_dir, tmp_path, pretrain__data__name='tested', overlap='leave_out')


def test_a_budget_in_images_is_one_in_epochs_of_what_is_seen(twins_dir, tmp_path):
    changes = dict(overlap='leave_out', pretrain__images_seen=100)
    [plan] = planned(twins_dir, tmp_path, **changes).experiment.chain
    assert (plan.epochs, plan.images_seen) == (4, 0)  # of 24 of the 30 images
    by_epochs = dict(overlap='leave_out', pretrain__epochs=4)
    stages = [
        planned(twins_dir, tmp_path, **fields).jobs[0].stage.address
        for fields in (changes, by_epochs)
    ]
    assert stages[0] == stages[1]
    with pytest.raises(UserError, match='images_seen is below 0'):
        planned(twins_dir, tmp_path, pretrain__images_seen=-1)
