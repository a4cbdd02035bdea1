import json
import os

import pytest

from jax_mrissl.core.build import build
from jax_mrissl.core.digest import digest
from jax_mrissl.core.errors import UserError, expect_known
from jax_mrissl.core.progress import Progress, duration
from jax_mrissl.core.run_dir import MetricsLog, write_atomically, write_json
from jax_mrissl.models import ENCODERS


def test_rewinding_drops_later_lines_and_a_torn_one(tmp_path):
    log = MetricsLog(tmp_path / 'metrics.jsonl')
    for step in (2, 4, 6):
        log.write(step, {'loss': 1.0 / step})
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 8, "lo')
    log.rewind(4)
    assert [row['step'] for row in log.rows()] == [2, 4]
    log.write(6, {'loss': 0.5})
    assert [row['step'] for row in log.rows()] == [2, 4, 6]


def test_files_appear_whole_and_leave_nothing_behind(tmp_path):
    write_atomically(tmp_path / 'a' / 'file', 'text')
    write_json(tmp_path / 'a' / 'b.json', {'z': 1, 'a': None})
    assert (tmp_path / 'a' / 'file').read_text() == 'text'
    write_atomically(tmp_path / 'name', os.fsdecode(b'caf\xe9.png'))
    assert (tmp_path / 'name').read_text() == r'caf\udce9.png'
    assert json.loads((tmp_path / 'a' / 'b.json').read_text()) == {'z': 1, 'a': None}
    assert {p.name for p in (tmp_path / 'a').iterdir()} == {'file', 'b.json'}
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_json(tmp_path / 'nan.json', float('nan'))
    assert not (tmp_path / 'nan.json').exists()


def test_digest_does_not_depend_on_the_order_of_keys():
    assert digest({'a': 1, 'b': [2]}) == digest({'b': [2], 'a': 1})
    assert digest({'a': 1}) != digest({'a': 2})


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [
        (42, '42 s'),
        (90, '2 min'),
        (3000, '50 min'),
        (4800, '80 min'),
        (6000, '1 h 40 min'),
    ],
)
def test_durations_are_written_for_people(seconds, words):
    assert duration(seconds) == words


def test_progress_counts_its_own_start_only(capsys):
    with Progress('Work', 10, done=4, unit='images') as progress:
        progress.advance(3)
        assert progress.rate > 0
    assert capsys.readouterr().out == ''


def test_messages_name_the_nearest_known():
    with pytest.raises(UserError, match=r"Unknown colour: 'blu'. Did you mean 'blue'"):
        expect_known('blu', ['red', 'blue'], 'colour')
    with pytest.raises(UserError, match=r'config\.encoder has no name'):
        build(ENCODERS, {}, where='config.encoder')
