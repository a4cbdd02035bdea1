"""A page is one file that says what it was given, and nothing that it was not."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest
from page_facts import NASTY, number_details, some_facts

from jax_mrissl.report.model_card import model_card
from jax_mrissl.report.plots import _broken
from jax_mrissl.report.run_page import run_page


class Reader(html.parser.HTMLParser):
    """Reads what a browser would."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.images, self.addresses = [], [], [], []
        self.labels, self.texts, self.open = {}, {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.open.append((tag, found.get('id')))
        self.ids += [found['id']] if 'id' in found else []
        self.images += [found] if tag == 'img' else []
        self.addresses += [found[k] for k in ('src', 'href') if k in found]

    def handle_data(self, data):
        if self.open and self.open[-1][1]:
            key = self.open[-1][1]
            self.texts[key] = self.texts.get(key, '') + data

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass


@pytest.fixture(scope='module')
def text():
    return run_page(some_facts())


@pytest.fixture(scope='module')
def page(text):
    return Reader(text)


def test_the_same_facts_give_the_same_bytes(text):
    assert run_page(some_facts()) == text


def test_texts_are_escaped_wherever_they_stand(text, page):
    assert not [tag for tag, _ in page.tags if tag == 'script']
    assert '<script' not in text and '49' not in re.findall(r'quotes. (\S+)', text)
    # Title, lead, row, caption, alt text, plot's words, card and command.
    assert text.count('&lt;script&gt;') >= 8


def test_nothing_is_fetched(page):
    assert page.addresses
    for address in page.addresses:
        assert address.startswith(('#', 'data:image/png;base64,')), address
    assert not {'script', 'link', 'iframe', 'object', 'form'} & {
        t for t, _ in page.tags
    }
    [policy] = [f['content'] for t, f in page.tags if 'http-equiv' in f]
    assert "default-src 'none'" in policy and 'unsafe' not in policy
    # The policy would refuse them.
    assert not [found for _, found in page.tags if 'style' in found]
    assert not [k for _, found in page.tags for k in found if k.startswith('on')]


def test_all_pictures_are_told_in_words(page):
    assert page.images and all(len(image['alt']) > 3 for image in page.images)
    plots = [found for tag, found in page.tags if tag == 'svg']
    assert len(plots) == 5
    for plot in plots:
        assert plot['role'] == 'img'
        for name in plot['aria-labelledby'].split():
            assert len(page.texts[name]) > 3


def test_ids_are_unique_and_links_lead_somewhere(page):
    assert len(page.ids) == len(set(page.ids))
    inner = [address[1:] for address in page.addresses if address.startswith('#')]
    assert set(inner) <= set(page.ids)


def test_under_trained_arms_show_no_numbers(text):
    row = re.search(r'<th scope="row">other</th>.*?</tr>', text, re.S).group()
    assert 'under-trained' in row and '0.9' not in row


def test_colours_are_the_pages_own(text):
    assert '#00000' not in text and 'var(--accent)' in text


def test_simulated_data_are_called_so_everywhere():
    text = run_page(some_facts(simulated=True))
    figures = re.findall(r'<figure.*?</figure>', text, re.S)
    plots = [figure for figure in figures if '<svg' in figure or '<table' in figure]
    assert 'SIMULATED' in re.search(r'<p class="lead">.*', text).group()
    assert len(plots) == 6 and all('SIMULATED' in figure for figure in plots)
    for table in re.findall(r'<caption>.*?</caption>', text):
        assert 'SIMULATED' in table


def test_what_is_absent_is_left_out_or_said():
    text = run_page(
        some_facts(
            details=None,
            details_absent='No arm is a result.',
            galleries=(),
            curves=(),
            pictures_left_out=True,
            command='',
        )
    )
    assert 'No arm is a result.' in text and '<img' not in text
    assert 'left out of this page' in text and 'id="training"' not in text


def test_a_number_is_drawn_against_the_truth():
    text = run_page(some_facts(details=number_details(), headline_metric='r2'))
    assert 'Told against true, by subject' in text and 'Confusion' not in text


def test_percent_signs_stay_with_their_numbers(text):
    assert 'Right of 55\N{NO-BREAK SPACE}%' in text


def test_a_bin_of_one_subject_is_drawn():
    facts = some_facts()
    one = np.array([1])
    details = facts.details.__class__(
        **{
            **vars(facts.details),
            **dict.fromkeys(('confidence', 'accuracy', 'low', 'high'), one * 1.0),
            'count': one,
        }
    )
    assert 'Reliability' in run_page(some_facts(details=details))


def test_a_model_card_tells_of_its_own_network_alone():
    card = model_card(some_facts(), label='other', mode='full', pretrained=False)
    assert card == model_card(
        some_facts(), label='other', mode='full', pretrained=False
    )
    assert card.startswith('---\nlibrary_name: jax\n')
    assert 'Pretraining' not in card and 'ef56' not in card and 'cd34' not in card
    assert '7890' in card and 'under-trained, no result' in card
    assert '| class prior | 1.000 |' in card
    pretrained = model_card(some_facts(), label='other', mode='full', pretrained=True)
    assert 'ef56' in pretrained and 'On other images.' in pretrained
    for line in card.splitlines():
        # Outside of the command's block nothing is read as HTML.
        assert NASTY not in line or line.startswith('python -m')


def many_classes(**changes):
    """Facts of a task of 15 classes in no order, whose names would break a plot."""
    names = ('No Finding', 'PNEUMOTHORAX', '$x^$', *(f'class_{i}' for i in range(12)))
    labels = np.arange(60) % 15
    line = np.array([0, 0.5, 1])
    details = dataclasses.replace(
        some_facts().details,
        classes=names,
        ordered=False,
        labels=labels,
        probabilities=np.random.default_rng(0).dirichlet(np.ones(15), 60),
        confusion=np.ones((15, 15), int),
        curves=tuple((name, line, line, 0.5) for name in names),
    )
    return some_facts(details=details, **changes)


def test_many_unordered_classes_are_told_apart():
    text = run_page(many_classes())
    assert 'expected grade' not in text and 'probability of the true class' in text
    assert '<table class="confusion many">' in text and '>PNEUMOTHORAX<' in text
    roc = text[text.index('id="roc-title"') :]
    roc = roc[: roc.index('</svg>')]
    looks = re.findall(r'<g id="roc-line2d_\d+">\s*<path d="[^"]*"([^>]*)/>', roc)
    curves = [look for look in looks if 'stroke-width="1.' in look]
    assert len(set(curves)) >= 15


def test_a_class_is_broken_between_its_words_alone():
    assert _broken('GLIOBLASTOMA') == 'GLIOBLASTOMA'
    assert _broken('VeryMildDemented') == 'Very\nMild\nDemented'
    assert _broken('No Finding, none') == 'No\nFinding,\nnone'


def test_a_page_of_numbers_speaks_of_no_line_that_is_not_there():
    table = some_facts().tables[0]
    facts = some_facts(
        details=number_details(), tables=(dataclasses.replace(table, prior=None),)
    )
    assert 'dashed' in run_page(some_facts()) and 'dashed' not in run_page(facts)


def test_who_told_a_subject_is_said_as_it_was():
    card = model_card(some_facts(), label='other', mode='full', pretrained=False)
    for text in (run_page(some_facts(told_by='BOTH')), card):
        assert 'have not seen' not in text
    assert 'told by BOTH' in run_page(some_facts(told_by='BOTH'))


def test_the_costs_on_a_card_are_one_table():
    card = model_card(some_facts(), label='other', mode='full', pretrained=True)
    lines = card[card.index('## Environmental impact') :].splitlines()[2:]
    rows = lines[: lines.index('')]
    assert len(rows) >= 4 and all(row.startswith('|') for row in rows)
