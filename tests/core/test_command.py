import os
import subprocess
import sys
import textwrap

import pytest

_COMMAND = '''
    """Counts things.

        python -m count --what=sheep
    """
    import errno, sys
    from absl import flags, logging
    from jax_mrissl.core.command import run_command
    from jax_mrissl.core.errors import UserError

    _WHAT = flags.DEFINE_string('what', 'sheep', 'What is counted.')
    _HOW_MANY = flags.DEFINE_integer('how_many', 3, 'Of them.')

    def main(argv):
        what = _WHAT.value
        if what == 'wolves':
            raise UserError('There are no wolves.\\nCount sheep.')
        if what == 'stars':
            raise OSError(errno.ENOSPC, 'No space left on device', '/there/stars')
        if what == 'walls':
            open('/dev/null/bricks')
        if what == 'nothing':
            raise KeyError('a mistake of ours')
        if what == 'time':
            raise KeyboardInterrupt
        logging.info('counting %s', what)
        logging.warning('they move')
        print(_HOW_MANY.value)

    if __name__ == '__main__':
        run_command(main, __doc__)
'''


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    path = tmp_path_factory.mktemp('command') / 'count.py'
    path.write_text(textwrap.dedent(_COMMAND))
    return [str(path)]


_MAIN = ['-m', 'jax_mrissl.main']


def run(command, *arguments, cwd=None):
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *command, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )


def test_success_prints_and_logs_briefly(command):
    done = run(command, '--how_many=5')
    assert (done.returncode, done.stdout) == (0, '5\n')
    # The file is none of the package's: what it says in passing is left out.
    [line] = done.stderr.splitlines()
    assert line[8:] == ' warning: they move'


def test_more_is_logged_on_request(command):
    done = run(command, '--verbosity=1')
    assert [line[8:] for line in done.stderr.splitlines()] == [
        ' counting sheep',
        ' warning: they move',
    ]


@pytest.mark.parametrize(
    ('argument', 'code', 'words'),
    [
        ('--what=wolves', 1, 'There are no wolves.\nCount sheep.\n'),
        ('--waht=x', 2, "Unknown command line flag 'waht'. Did you mean: what?\n"),
        ('--how_many=x', 2, 'flag --how_many=x: invalid literal for int() with base'),
        ('--how_many', 2, 'Missing value for flag --how_many'),
        ('sheep', 2, "Unexpected argument: 'sheep'."),
        ('--what=time', 130, 'Stopped. The same command goes on from here.\n'),
    ],
)
def test_mistakes_of_use_are_plain_lines(command, argument, code, words):
    done = run(command, argument)
    assert done.returncode == code
    assert done.stderr.startswith(words)
    assert len(done.stderr.splitlines()) <= 2
    assert 'Traceback' not in done.stderr


def test_a_full_disk_is_a_plain_line(command):
    done = run(command, '--what=stars')
    assert done.returncode == 1
    assert done.stderr.startswith('The disk is full (/there/stars).')
    assert 'Traceback' not in done.stderr


def test_a_path_that_cannot_be_is_a_plain_line(command):
    done = run(command, '--what=walls')
    assert done.returncode == 1
    assert done.stderr == 'Not a directory: /dev/null/bricks\n'


def test_our_own_mistakes_keep_their_traceback(command):
    done = run(command, '--what=nothing')
    assert done.returncode == 1
    assert 'Traceback' in done.stderr
    assert "KeyError: 'a mistake of ours'" in done.stderr


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_shows_docstring_and_own_flags(command, flag):
    done = run(command, flag)
    assert done.returncode == 0
    assert done.stdout.startswith('Counts things.\n')
    assert '    python -m count --what=sheep' in done.stdout
    assert 'What is counted. Default: sheep.' in done.stdout
    assert 'verbosity' not in done.stdout
    assert done.stderr == ''


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            ['--config=configs/base.py', '--config.pretrian.epochs=3'],
            "Unknown field of the config: 'pretrian', in --config.pretrian.epochs. "
            "Did you mean 'pretrain'?",
        ),
        (
            ['--config', 'configs/base.py', '--config.pretrain.epoch', '3'],
            "Unknown field of the config: 'epoch', in --config.pretrain.epoch. "
            "Did you mean 'epochs'?",
        ),
        (
            ['--config=configs/base.py:dmo'],
            "Unknown scale or policy of the config (behind the colon): 'dmo'. Did you "
            "mean 'demo'?",
        ),
        (
            ['--config=configs/barlow_brian.py'],
            'There is no config file configs/barlow_brian.py. Did you mean '
            'configs/barlow_brain.py?',
        ),
        (
            ['--config=elsewhere/base.py'],
            'There is no config file elsewhere/base.py.',
        ),
        (['--config.seed=3'], 'Say which experiment: --config=FILE'),
        (
            ['--config=configs/barlow_brain.py', '--config.finetune.full.views=()'],
            'config.finetune.full.views is a list, which a flag cannot change. Write a '
            'config file',
        ),
    ],
)
def test_mistakes_in_the_config_are_plain_lines(tmp_path, arguments, words):
    # In an empty folder: `configs/` is then the package's own.
    done = run(_MAIN, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(words)
    assert 'Traceback' not in done.stderr


def test_a_local_config_comes_before_the_packaged_one(tmp_path):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/base.py').write_text(
        'from jax_mrissl.core.errors import UserError\n'
        'def get_config():\n'
        "    raise UserError('the local one')\n"
    )
    done = run(_MAIN, '--config=configs/base.py', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'the local one\n')


def test_a_bug_in_a_config_keeps_its_traceback(tmp_path):
    (tmp_path / 'mine.py').write_text("def get_config():\n    return {}['a']\n")
    done = run(_MAIN, '--config=mine.py', cwd=tmp_path)
    assert done.returncode == 1
    assert "KeyError: 'a'" in done.stderr
    assert 'mine.py", line 2, in get_config' in done.stderr


@pytest.mark.parametrize(
    ('sent', 'code', 'words'),
    [
        ('SIGTERM', 75, 'Stopped by SIGTERM. The same command goes on from here.'),
        ('SIGINT', 130, 'Stopped. The same command goes on from here.'),
    ],
)
def test_what_cleans_up_at_the_end_does_not_change_the_code(sent, code, words):
    # As the end of Python may crash in the middle of a compilation.
    script = f"""
import atexit, os, signal, time
from jax_mrissl.core.command import run_command
atexit.register(os._exit, 99)
run_command(lambda _: os.kill(os.getpid(), signal.{sent}) or time.sleep(30), None)
"""
    ended = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, words in ended.stderr) == (code, True), ended.stderr
