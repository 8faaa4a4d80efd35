"""What the commands share: one clear line for a mistake, and notices on stderr."""

import io
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from qamro_cache.errors import OptionError, QamroError, mistakes_of, quoted, unknown, words_of

from .sections import write_options

#: Letters of an error or a notice at most.
LONGEST_LINE = 440

#: Columns of a notice on a terminal at most: longer lines are hard to read.
_WIDEST = 100

#: Seconds between two lines that say how far the work is, where no terminal shows a bar.
SECONDS_A_LINE = 15

#: What holds after Ctrl-C of a command that keeps nothing of what it has not finished.
STARTS_OVER = "files are whole or as they were, and the same command starts from the beginning"

#: ``--version`` of every command.
version_option = click.version_option(package_name="qamro-cache", message="%(prog)s %(version)s")


class OneLine(click.Command):
    """A command whose mistakes are one line on stderr, never a traceback.

    Wrong usage leaves with exit code 2, everything else that was not done with 1. ``stopped`` is
    what holds after Ctrl-C, whenever it is pressed.
    """

    def __init__(self, *args: Any, stopped: str = STARTS_OVER, **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs)
        self.stopped = stopped

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, many of them under headings."""
        if not write_options(self, ctx, formatter):
            super().format_options(ctx, formatter)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave the process."""
        _run(super().main, self.stopped, *args, **kwargs)


class OneLineGroup(click.Group):
    """A group of commands, each as `OneLine`."""

    command_class = OneLine

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        # Without a name a group would show its help as an error of many lines.
        kwargs["no_args_is_help"] = False
        super().__init__(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave the process."""
        _run(super().main, STARTS_OVER, *args, **kwargs)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find a command; the error of a wrong name has the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("no command", args[0], tuple(self.commands))
        return super().resolve_command(ctx, args)


def _run(command: Any, stopped: str, *args: Any, **kwargs: Any) -> NoReturn:
    _open_streams()
    if not (args or kwargs):  # the process is ours, and no test's
        _read_names_as_utf8()
    for stream in (sys.stdout, sys.stderr):
        # A letter that an old terminal lacks becomes its escape, never a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _refuse_a_gone_folder()
    try:
        code = command(*args, **{**kwargs, "standalone_mode": False})
        # A full disk behind stdout is told here, not by the interpreter's last words.
        sys.stdout.flush()
    except click.UsageError as error:
        name = "" if error.ctx is None else f"; see {error.ctx.command_path} --help"
        fail(f"{error.format_message().rstrip('.')}{name}", code=2)
    except OptionError as error:
        fail(str(error), code=2)
    except (KeyboardInterrupt, click.Abort):
        fail(f"stopped; {stopped}")
    except BrokenPipeError:
        _silence_stdout()
        sys.exit(1)
    except QamroError as error:
        first, *others = mistakes_of(error)
        fail(first, *others)
    except ImportError as error:
        # A library that is stopped while it is loaded may say that it is not there.
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        fail(f"stopped; {stopped}")
    except (MemoryError, RuntimeError) as error:
        # Of torch, on a processor: a RuntimeError like any other but for its words.
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        fail("memory ran out; ask for less at once, or close other programs")
    except OSError as error:
        _silence_stdout()
        where = "" if error.filename is None else f"{quoted(os.fsdecode(error.filename))}: "
        fail(f"{where}{words_of(error)}")
    sys.exit(code if isinstance(code, int) else 0)


def _read_names_as_utf8() -> None:
    """Begin again in Python's UTF-8 mode where it reads names as ASCII: PYTHONUTF8=0 LC_ALL=C.

    Names in tables and caches are UTF-8. Read as ASCII a file's name is other text than there.
    """
    if sys.getfilesystemencoding() == "ascii" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"  # of the processes that it starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_streams() -> None:
    """Give closed streams somewhere to go (``2>&-``).

    Else the next file that is opened has their number, and what libraries of C print goes into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def _silence_stdout() -> None:
    """Keep the interpreter from writing at its end what could not be written before."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_a_gone_folder() -> None:
    # Some libraries end the process without a word of ours where it is gone.
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        fail("the working folder is gone; change to another and run the command again")


def fail(message: str, *others: str, code: int = 1) -> NoReturn:
    """Say what is wrong on stderr, a mistake a line, and leave."""
    click.echo(f"error: {short(message)}", err=True)
    for other in others:
        click.echo(f"also: {short(other)}", err=True)
    sys.exit(code)


def printable(text: str) -> str:
    """Escape what could move a terminal's cursor or colors; one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str) -> str:
    """Return a printable line of at most `LONGEST_LINE` letters; its middle goes first."""
    # What is cut away need not be escaped; an escape is at most ten letters.
    if len(text) > 2 * LONGEST_LINE:
        text = text[:LONGEST_LINE] + text[-LONGEST_LINE:]
    text = printable(text)
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[: LONGEST_LINE - 165]} ... {text[-160:]}"


def wrapped(line: str) -> str:
    """Return a line as stderr has it: on a terminal within its width, else in one piece."""
    if not sys.stderr.isatty():
        return line
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.fill(
        line, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def notices_to_stderr() -> None:
    """Send the library's notices (logging, logger ``qamro_cache``) to stderr.

    In a file or a pipe each is a line, on a terminal it is wrapped.
    """
    import logging

    class Notice(logging.Formatter):
        def __init__(self) -> None:
            super().__init__("%(levelname)s: %(message)s")
            self.named: set[str] = set()

        # Notices quote paths and names out of files, which may hold terminal escapes.
        def format(self, record: logging.LogRecord) -> str:
            return wrapped(short(super().format(self._brief(record))))

        def _brief(self, record: logging.LogRecord) -> logging.LogRecord:
            """Call a file by its path in the first notice about it, by its name in others."""
            if not isinstance(record.args, tuple) or not record.args:
                return record
            first, *others = record.args
            if not isinstance(first, Path) or not record.msg.startswith("%s: "):
                return record
            again = str(first) in self.named
            self.named.add(str(first))
            if not again:
                return record
            rest = {**record.__dict__, "args": (first.name, *others)}
            return logging.makeLogRecord(rest)

    class ToStderr(logging.StreamHandler[TextIO]):
        # While a progress bar is shown, sys.stderr is what writes above it.
        @property
        def stream(self) -> TextIO:
            return sys.stderr

        @stream.setter
        def stream(self, stream: TextIO) -> None: ...

    handler = ToStderr()
    handler.setFormatter(Notice())
    logger = logging.getLogger("qamro_cache")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    _keep_any_name()


def _keep_any_name() -> None:
    """Have pandas keep names that are not UTF-8: beside pyarrow its text is Arrow, which cannot."""
    if find_spec("pyarrow") is not None:
        import pandas as pd

        pd.set_option("mode.string_storage", "python")
