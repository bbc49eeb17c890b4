"""What every command shares: expected errors become one line, an interrupt ends quietly, log messages reach the console."""

from __future__ import annotations

import functools
import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from nnunet_ssl.disk import meaning
from nnunet_ssl.errors import LESS_MEMORY, NnsslError, NotYetError, is_full_gpu

EXIT_ERROR = 2
"""Exit code of an expected error; argparse uses the same for wrong arguments."""
EXIT_NOT_YET = 3
"""Exit code where something that must come first is not done yet, so that a scheduler can tell this from an error."""
EXIT_UNREAD = 141
"""Exit code when whoever read the output has stopped, as shells report it (128 + SIGPIPE)."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells report it (128 + SIGINT)."""


class _WarningFormatter(logging.Formatter):
    """Warnings and errors in the form of the command's own error line: `nnssl_x: warning: ...`."""

    def __init__(self, command_name: str) -> None:
        super().__init__()
        self.command_name = command_name

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return f"{self.command_name}: {record.levelname.lower()}: {record.message}"


class _Messages(logging.StreamHandler[TextIO]):
    """To stdout; where that cannot be written to, the command hears of it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        raise


@contextmanager
def console_logging(command_name: str) -> Iterator[None]:
    """Send the package's log messages to the console: below WARNING to stdout as they are, the rest to stderr with the command's name.

    Only the logger `nnunet_ssl` is touched, and it is as before afterwards.

    Args:
        command_name: what the user typed, for instance `nnssl_prepare`.
    """
    logger = logging.getLogger("nnunet_ssl")
    messages = _Messages(sys.stdout)
    messages.addFilter(lambda record: record.levelno < logging.WARNING)
    problems = logging.StreamHandler(sys.stderr)
    problems.setLevel(logging.WARNING)
    problems.setFormatter(_WarningFormatter(command_name))
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(messages)
    logger.addHandler(problems)
    try:
        yield
    finally:
        logger.removeHandler(problems)
        logger.removeHandler(messages)
        logger.setLevel(level)


def run_command(name: str, body: Callable[[], int | None]) -> int:
    """Run the body of a command and turn what can go wrong as expected into a line on stderr and an exit code.

    Args:
        name: the command's name, for instance `nnssl_prepare`.
        body: what the command does; returns an exit code, None meaning 0.

    Returns:
        The exit code: the body's own, 2 after an `NnsslError` (3 after a `NotYetError`), where a file system refuses (no space, no
        permission) or a GPU has too little memory, 130 after an interrupt, 141 when nobody reads the output any more (`| head`). Any
        other exception passes through with its traceback, because it is a defect.
    """
    # before PyTorch is loaded: threads that spin while they wait slow a CPU down several times as soon as anything else runs on it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # said by libraries below nnU-Net on import, in every process; nothing a user could act on
    warnings.filterwarnings("ignore", message=r"`torch\.jit", category=FutureWarning)
    with console_logging(name):
        try:
            code = body() or 0
            sys.stdout.flush()
            return code
        except NnsslError as error:
            traceback.clear_frames(error.__traceback__)  # a progress bar that the error has cut off ends its line
            return _report(name, str(error), EXIT_NOT_YET if isinstance(error, NotYetError) else EXIT_ERROR)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads_output():
                # the interpreter flushes what is left when it ends, and would complain once more
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return EXIT_UNREAD
            if (line := meaning(error)) is None:
                raise
            traceback.clear_frames(error.__traceback__)
            return _report(name, line)
        except RuntimeError as error:
            if not is_full_gpu(error):
                raise
            traceback.clear_frames(error.__traceback__)
            return _report(name, f"the GPU has too little memory ({str(error).partition('. ')[0]}); {LESS_MEMORY}.")
        except KeyboardInterrupt:
            print(f"{name}: interrupted; the same command again continues where that is possible.", file=sys.stderr)
            return EXIT_INTERRUPTED


def _nobody_reads_output() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _report(name: str, message: str, code: int = EXIT_ERROR) -> int:
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def command(name: str) -> Callable[[Callable[[Sequence[str] | None], int | None]], Callable[..., int]]:
    """Make a function of the command line a console script; the form in which commands use `run_command`.

    Example:
        >>> @command("nnssl_example")
        ... def main(argv: Sequence[str] | None = None) -> None:
        ...     argparse.ArgumentParser(prog="nnssl_example").parse_args(argv)

    Args:
        name: the command's name, for instance `nnssl_prepare`.

    Returns:
        A decorator for `main(argv)`. The decorated function takes `argv` (None: the process's own arguments) and returns the exit code.
    """

    def decorate(main: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def guarded(argv: Sequence[str] | None = None) -> int:
            return run_command(name, lambda: main(argv))

        return guarded

    return decorate
