"""What weights from outside were trained on counts as seen, where it is known."""

from jax_mrissl.audit.overlap import find_overlap
from jax_mrissl.data.prepared import open_fingerprint, open_prepared
from jax_mrissl.stages.plan import Part, _ancestors


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
