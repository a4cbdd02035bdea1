"""What all commands share: flags, help, logging, and mistakes as plain lines."""

import difflib
import errno
import io
import logging as python_logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from absl import app, flags, logging

from jax_mrissl.core import processes
from jax_mrissl.core.errors import UserError
from jax_mrissl.core.preemption import START_AGAIN, Preempted, listen, settle
from jax_mrissl.core.runtime import prepare_runtime

_PACKAGE = Path(__file__).parents[1]
_CONFIGS = _PACKAGE / 'configs'
_HELP = ('-h', '--h', '-?', '--help', '-help', '--helpshort')
_FAILED, _WRONG_FLAGS, _INTERRUPTED = 1, 2, 130  # exit codes, as shells have them
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# A path of the user's cannot be read or written so.
_OF_A_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)
# In errors of XLA's back ends when a process is gone.
_OF_ANOTHER = ('Gloo', 'NCCL', 'UNAVAILABLE', 'Connection', 'heartbeat')


def run_command(
    main: Callable[[list[str]], object], doc: str | None, *, arguments: bool = False
) -> NoReturn:
    """Runs a command with the flags of `sys.argv`; ends the process.

    A mistake of use ends it with a few lines on stderr instead of a traceback, and code
    1; one in the flags with code 2; SIGTERM with 75. Errors of ours keep their
    traceback. Where it is one of several processes, the others end with the same code.

    Args:
        main: gets the name of the program and, if there may be any, arguments.
        doc: the module's docstring, which --help shows; None: there is none.
        arguments: whether it takes arguments beside its flags, such as files.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text
        sys.stdout.reconfigure(errors='backslashreplace')
    prepare_runtime()
    _shorten_log_lines()
    listen()

    def parse(argv: list[str]) -> list[str]:
        if any(argument in _HELP for argument in argv[1:]):
            print(_help(doc))
            sys.exit(0)
        return _parse_flags(argv, arguments)

    def run(argv: list[str]) -> int:
        try:
            main(argv)
            processes.finish()
        except UserError as error:
            return _end(str(error), _FAILED)
        except KeyboardInterrupt:
            _stop('Stopped. The same command goes on from here.', _INTERRUPTED)
        except Preempted:
            settle()
            _stop(
                'Stopped by SIGTERM. The same command goes on from here.', START_AGAIN
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                where = f' ({error.filename})' if error.filename else ''
                return _end(
                    f'The disk is full{where}. What was finished is intact: make room, '
                    'and start the same command again.',
                    _FAILED,
                )
            if processes.count() == 1:
                if isinstance(error, OSError) and error.errno in _OF_A_PATH:
                    return _end(f'{error.strerror}: {error.filename}', _FAILED)
                raise
            logging.exception('%s', error)
            if _is_of_another(error):
                processes.wait_for_verdict()
            return _end(f'{type(error).__name__}: {error}', _FAILED)
        return 0

    app.run(run, flags_parser=parse)
    raise AssertionError('app.run ends the process')


def _parse_flags(argv: list[str], arguments: bool) -> list[str]:
    """Parses the flags, or ends the process with what is wrong with them."""
    try:
        if 'config' in flags.FLAGS:
            argv = _with_config_files(argv)
            # ml_collections looks for overrides of fields there, not in `argv`.
            sys.argv = argv
            if not any(re.match(r'--?config(=|$)', a) for a in argv):
                raise UserError(
                    f'Say which experiment: --config=FILE, of {_known_configs()}.'
                )
        rest = flags.FLAGS(argv)
        if len(rest) > 1 and not arguments:
            raise UserError(
                f'Unexpected argument: {rest[1]!r}. Flags are written --name=value; '
                'a value with spaces needs quotes.'
            )
    except UserError as error:
        sys.exit(_say(str(error), _WRONG_FLAGS))
    except flags.Error as error:
        # What a config raised is buried under the tracebacks that wrap it.
        cause = _first_user_error(error)
        words = str(cause) if cause else _not_a_flag(str(error))
        sys.exit(_say(words.replace(': ?', '?').replace(' ?', '?'), _WRONG_FLAGS))
    except (AttributeError, KeyError, TypeError) as error:
        if _passes_through(error.__traceback__, 'get_config'):
            raise  # a bug of the config file, for its author
        sys.exit(_say(_wrong_field(error, argv), _WRONG_FLAGS))
    return rest


def _with_config_files(argv: Sequence[str]) -> list[str]:
    """Replaces `configs/X.py`, where it does not exist, by the package's own copy."""
    result = list(argv)
    for index, argument in enumerate(result[1:], 1):
        if argument == '--':
            break
        name, equals, value = argument.partition('=')
        if name not in ('--config', '-config'):
            continue
        if equals:
            result[index] = f'{name}={config_file(value)}'
        elif index + 1 < len(result):
            result[index + 1] = config_file(result[index + 1])
    return result


def config_file(value: str) -> str:
    """Finds the file of 'FILE:SCALE', here or in the package."""
    name, colon, scale = value.partition(':')
    if Path(name).is_file():
        return value
    ours = _CONFIGS / Path(name).name
    if Path(name).parent.name in ('', 'configs') and ours.is_file():
        return f'{ours}{colon}{scale}'
    stems = [path.stem for path in _CONFIGS.glob('[!_]*.py')]
    near = difflib.get_close_matches(Path(name).stem, stems, n=1)
    hint = f' Did you mean configs/{near[0]}.py?' if near else ''
    raise UserError(f'There is no config file {name}.{hint} Known: {_known_configs()}.')


def _known_configs() -> str:
    return ', '.join(sorted(f'configs/{p.name}' for p in _CONFIGS.glob('[!_]*.py')))


def _first_user_error(error: BaseException | None) -> UserError | None:
    """Finds the UserError that the others were raised in answer to."""
    found = None
    while error:
        if isinstance(error, UserError):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _passes_through(trace: TracebackType | None, function: str) -> bool:
    while trace:
        if trace.tb_frame.f_code.co_name == function:
            return True
        trace = trace.tb_next
    return False


def _not_a_flag(words: str) -> str:
    """Says what absl does not: that some fields are for a config file."""
    field = re.match(r"Type <class 'list'> of field config\.(\S+) is not", words)
    if not field:
        return f'{words}\n--help lists the flags.'
    return (
        f'config.{field[1]} is a list, which a flag cannot change. Write a config '
        'file, anywhere: copy one of configs/, change the list in its get_config '
        f'(config.{field[1]} = [...]), and start with --config=FILE.'
    )


def _wrong_field(error: Exception, argv: Sequence[str]) -> str:
    """Says which override names no field; ml_collections says what is near."""
    inner: object = error
    while isinstance(inner, BaseException) and inner.args:
        inner = inner.args[0]  # a KeyError may be wrapped in an AttributeError
    words = str(inner)
    field = re.search(r"'(\w+)'", words)
    near = re.search(r'Did you mean "(\w+)"', words)
    named = rf'--?config\.(.*\.)?{field[1]}\b' if field else '$^'
    flag = next((a.partition('=')[0] for a in argv if re.match(named, a)), '')
    if not field or not flag:
        return f'A flag --config.FIELD names no field of the config: {words}'
    hint = f' Did you mean {near[1]!r}?' if near else ''
    return (
        f'Unknown field of the config: {field[1]!r}, in {flag}.{hint}\n'
        'All fields and their defaults are in configs/base.py.'
    )


def _help(doc: str | None) -> str:
    """Shows the docstring and the flags of the command itself."""
    lines = [(doc or '').strip(), '', 'Flags:']
    for flag in sorted(
        flags.FLAGS.get_key_flags_for_module(sys.argv[0]), key=lambda flag: flag.name
    ):
        default = '' if flag.default in (None, [], '') else f' Default: {flag.default}.'
        # absl adds to some, behind a semicolon, that they may be repeated.
        help_text = ' '.join((flag.help or '').replace('.;', '.').split())
        lines.append(f'  --{flag.name}')
        lines += textwrap.wrap(
            f'{help_text}{default}',
            width=88,
            initial_indent='      ',
            subsequent_indent='      ',
        )
    return '\n'.join([*lines, '', '--helpfull lists the flags of all libraries.'])


def _say(words: str, code: int) -> int:
    logging.flush()
    print(words, file=sys.stderr)
    return code


def _end(words: str, code: int) -> int:
    """Says why this process ends; of several, ends all."""
    _say(words, code)
    processes.leave(code, words)
    return code


def _stop(words: str, code: int) -> NoReturn:
    """Ends this process where it was told to, in the middle of anything.

    What is to be kept is on disk. To clean up after a program that was being traced or
    compiled, as Python does at its end, can crash with another code.
    """
    _end(words, code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_of_another(error: Exception) -> bool:
    """Says whether it reads as if a collective had missed another process."""
    return any(word in str(error) for word in _OF_ANOTHER)


def _shorten_log_lines() -> None:
    """Logs '12:34:56 text'; of other packages only what is a warning or worse."""

    def is_wanted(record: python_logging.LogRecord) -> bool:
        ours = record.pathname.startswith(str(_PACKAGE)) and processes.is_first()
        return ours or record.levelno > python_logging.INFO or logging.level_debug()

    handler = logging.get_absl_handler()
    handler.setFormatter(_ShortFormatter('%(asctime)s %(message)s', '%H:%M:%S'))
    handler.addFilter(is_wanted)


class _ShortFormatter(python_logging.Formatter):
    """Names the level only where it is worse than information."""

    def formatMessage(self, record: python_logging.LogRecord) -> str:  # noqa: N802
        if record.levelno > python_logging.INFO:
            record.message = f'{record.levelname.lower()}: {record.message}'
        return super().formatMessage(record)
