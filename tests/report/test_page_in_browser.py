"""A browser opens the page: no complaint, no request, no picture without words."""

import json
import shutil
import subprocess

import pytest
from page_facts import some_facts

from jax_mrissl.report.run_page import run_page

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason='Chromium is not installed: apt-get install chromium'
)


def opened(path, folder):
    """Opens a file; gives the console's lines, the addresses asked for, its DOM."""
    log = folder / 'net.json'
    ran = subprocess.run(
        [
            CHROMIUM,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--no-first-run',
            '--disable-background-networking',
            '--host-resolver-rules=MAP * ~NOTFOUND',
            f'--user-data-dir={folder / "profile"}',
            '--enable-logging=stderr',
            f'--log-net-log={log}',
            '--window-size=390,800',
            '--dump-dom',
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    console = [line for line in ran.stderr.splitlines() if ':CONSOLE:' in line]
    told = json.loads(log.read_text())
    asked = [
        event['params']['url']
        for event in told['events']
        if event['type'] == told['constants']['logEventTypes']['URL_REQUEST_START_JOB']
        # Of the requests that the browser makes for itself no page is the origin.
        and event['params'].get('initiator', 'not an origin') != 'not an origin'
    ]
    return console, asked, ran.stdout


def test_the_page_is_quiet_and_asks_for_nothing(tmp_path):
    path = tmp_path / 'index.html'
    path.write_text(run_page(some_facts(simulated=True)))
    console, asked, dom = opened(path, tmp_path)
    assert (console, asked) == ([], [])
    assert dom.count('<svg') == 5 and '<img' in dom
    assert dom.count('<img') == dom.count(' alt="')


def test_the_witness_sees_what_would_be_wrong(tmp_path):
    path = tmp_path / 'bad.html'
    path.write_text(
        '<img src="http://example.org/x.png"><script>console.error(1)</script>'
    )
    console, asked, _ = opened(path, tmp_path)
    assert len(console) >= 1 and asked == ['http://example.org/x.png']


def test_nothing_is_wider_than_a_phone(tmp_path):
    text = run_page(some_facts())
    policy = text[text.index('<meta http-equiv') : text.index('<meta name="viewport"')]
    probe = (
        '<script>document.title = document.documentElement.scrollWidth + " of " + '
        'document.documentElement.clientWidth</script></body>'
    )
    path = tmp_path / 'index.html'
    path.write_text(text.replace(policy, '').replace('</body>', probe))
    *_, dom = opened(path, tmp_path)
    width, _, room = dom[dom.index('<title>') + 7 : dom.index('</title>')].split()
    assert int(width) <= int(room) <= 500
