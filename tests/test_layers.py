"""The house: layers import downwards only, and no method's name leaks."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'jax_mrissl'
LAYERS = {
    'core': 0,
    'readers': 1,
    'augment': 1,
    'models': 1,
    'metrics': 1,
    'report': 1,
    'likeness': 1,
    'data': 2,
    'objectives': 2,
    'saliency': 2,
    'train': 3,
    'audit': 3,
    'tasks': 4,
    'stages': 5,
    'configs': 5,
}
# Who alone may import what.
THIRD_PARTY = {
    'pydicom': {'readers'},
    'tifffile': {'readers'},
    'imagecodecs': {'readers'},
    'nibabel': {'readers'},
    'PIL': {'readers', 'report'},
    'tensorflow_datasets': {'data'},
    'array_record': {'data'},
    'grain': {'data'},
    'orbax': {'train/checkpoint.py'},
    'ml_collections': {
        'tasks/from_config.py',
        'stages/grid.py',
        'configs',
        'core/command.py',
        'bench.py',
        'main.py',
        'search.py',
        'study.py',
    },
    'optuna': {'stages/search_trials.py'},
    'sklearn': {'metrics'},
    'tensorflow': set(),
    'torch': set(),
}
FILES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))


def room(path):
    return path.split('/')[0] if '/' in path else 'commands'


def imports(path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: imports are absolute'
            yield node.module


@pytest.mark.parametrize('path', FILES)
def test_imports_go_downwards(path):
    here = room(path)
    for name in imports(path):
        top, *rest = name.split('.')
        if top == 'jax_mrissl' and rest and rest[0] in LAYERS and rest[0] != here:
            mine, theirs = LAYERS.get(here, 6), LAYERS[rest[0]]
            # A config is data made of recipes.
            assert mine > theirs, (
                f'{path} ({mine}) imports {name} ({theirs}): move the shared part down'
            )
        if top in THIRD_PARTY:
            allowed = THIRD_PARTY[top]
            assert here in allowed or path in allowed, f'{path} imports {top}'


@pytest.mark.parametrize(
    'path', [p for p in FILES if room(p) in ('core', 'train', 'report', 'stages')]
)
def test_no_method_is_named_where_all_are_equal(path):
    text = (PACKAGE / path).read_text().lower()
    # A source may be cited; code may not know a method.
    code = '\n'.join(
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name | ast.Attribute | ast.keyword | ast.Compare)
    )
    found = re.findall(r'simclr|barlow|swav', code)
    assert not found, f'{path} names {found[0]}'
