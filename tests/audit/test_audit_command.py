"""The command writes its page and its JSON, or says what is wrong."""

import functools
import html.parser
import json

import pytest
from conftest import run_module

audit = functools.partial(run_module, 'audit')


class Images(html.parser.HTMLParser):
    """Collects images and links of a page."""

    def __init__(self):
        super().__init__()
        self.images, self.outside = [], []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == 'img':
            self.images.append(attributes)
        values = str(list(attributes.values()))
        if tag in ('script', 'link', 'iframe') or 'http' in values:
            self.outside.append(tag)


def test_pairs_are_told_and_shown(twins_dir, tmp_path):
    out = tmp_path / 'new' / 'audit'
    ran = audit(
        f'--data_dir={twins_dir}',
        '--dataset=others',
        '--dataset=tested',
        f'--out={out}',
    )
    assert ran.returncode == 0, ran.stderr
    assert 'Twins: 1 pair, 1 of them across subjects or groups, 1 across' in ran.stdout
    told = json.loads((out / 'audit.json').read_text())
    assert [part['images'] for part in told['parts']] == [33, 24]
    text = (out / 'index.html').read_text()
    page = Images()
    page.feed(text)
    assert not page.outside
    assert len(page.images) == 6  # three pairs
    assert all(
        image['src'].startswith('data:image/png;base64,') for image in page.images
    )
    assert all(len(image['alt']) > 20 for image in page.images)
    assert 'prefers-color-scheme: dark' in text
    assert 'Twins between others/train and tested/train, of different subjects' in text
    for word in ('sub-', str(twins_dir)):
        assert word not in text and word not in json.dumps(told)


def test_nothing_found_is_said(twins_dir, tmp_path):
    ran = audit(
        f'--data_dir={twins_dir}', '--dataset=tested', f'--out={tmp_path / "out"}'
    )
    assert ran.returncode == 0, ran.stderr
    assert 'No two of 24 images show the same.' in ran.stdout
    assert '<img' not in (tmp_path / 'out' / 'index.html').read_text()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--data_dir=x', '--out=y'), '--dataset is missing'),
        (('--dataset=x', '--out=y'), '--data_dir is missing'),
        (('--dataset=x', '--data_dir=y'), '--out is missing'),
        (
            ('--dataset=mine', '--data_dir=/nowhere', '--out=y'),
            'jax_mrissl.prepare --dataset=folder --name=mine',
        ),
        (('--dataset=x', '--data_dir=y', f'--out={__file__}'), 'is a file'),
    ],
)
def test_a_mistake_is_answered(flags, message):
    ran = audit(*flags)
    assert ran.returncode == 1 and message in ran.stderr
    assert 'Traceback' not in ran.stderr
