"""What the commands share: one clear line for a user's mistake, tables, progress bars."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, NoReturn, TypeVar

import click

from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.errors import QamroError
from qamro_cache.settings import settings_of

from .options import option_of

Command = TypeVar("Command", bound=Callable[..., Any])

#: Letters of an error or a notice at most.
LONGEST_LINE = 440

#: ``--version`` of every command.
version_option = click.version_option(package_name="qamro-cache", message="%(prog)s %(version)s")


class ShortUsage(click.Command):
    """A command whose wrong usage is told in lines that can be read, whatever was typed."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line."""
        with short_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        with short_usage():
            return super().invoke(context)


@contextmanager
def short_usage() -> Iterator[None]:
    """Shorten the messages of click's own errors."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(short(error.format_message()), error.ctx) from None


def one_line_errors(command: Command) -> Command:
    """Turn the user's mistakes into one line on stderr and exit code 1; never a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            # A letter that an old terminal lacks becomes its escape, never a traceback.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        _refuse_a_gone_folder()
        try:
            result = command(*args, **kwargs)
            # A full disk behind stdout is told here, not by the interpreter's last words.
            if sys.stdout is not None:
                sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            fail(
                "stopped; run the same command again "
                "(qamro-extract and qamro-ablate go on where they were)"
            )
        except BrokenPipeError:
            _silence_stdout()
            sys.exit(1)
        except QamroError as error:
            fail(str(error))
        except OSError as error:
            _silence_stdout()
            fail(str(error))

    return wrapped  # type: ignore[return-value]


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


def usable_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse a torch device that is not there; torch is only asked about one that was named."""
    from qamro_cache import devices

    _refuse_a_gone_folder()
    try:
        return value and devices.usable_device(value)
    except QamroError as error:
        fail(str(error))


def weights_options(command: Command) -> Command:
    """Add the options that say where an encoder's weights and vocabulary are on this machine."""
    declared = settings_of(EncoderOptions)
    for name in ("allow_pickle", "tokenizer", "checkpoint"):
        command = option_of(declared[name])(command)
    return command


def fail(message: str) -> NoReturn:
    """Say what is wrong on stderr, in one line, and leave with exit code 1."""
    click.echo(f"error: {short(message)}", err=True)
    sys.exit(1)


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


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    left: int = 1,
    err: bool = False,
) -> None:
    """Print a table: the first ``left`` columns aligned left, the others right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str: what a name holds is no markup.
    heading = Text(printable(title)) if title else None
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            Text(printable(column)), justify="left" if index < left else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # A pipe or a log file has no width; do not fold a table there.
    console = Console(stderr=err, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, width=160)
    console.print(table)


def show_fields(fields: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Print labels with their values beside them, within 80 columns where words are that short."""
    import textwrap

    fields = list(fields)
    margin = indent + max((len(label) for label, _ in fields), default=0) + 2
    for label, value in fields:
        label, value = printable(label), printable(value)
        # What does not fit beside its label (a hash, a long path) stands below it, in one piece.
        beside = max(map(len, value.split()), default=0) <= 80 - margin
        place = margin if beside else indent + 4
        lines = textwrap.wrap(
            value, 80 - place, break_long_words=False, break_on_hyphens=False
        ) or ["-"]
        head = " " * indent + label
        click.echo(f"{head:{margin}}{lines.pop(0)}" if beside else head)
        for line in lines:
            click.echo(" " * place + line)


def notices_to_stderr() -> None:
    """Send the library's notices (logging, logger ``qamro_cache``) to stderr, a line each."""
    import logging

    class OneLine(logging.Formatter):
        # Notices quote paths and names out of files, which may hold terminal escapes.
        def format(self, record: logging.LogRecord) -> str:
            return short(super().format(record))

    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(levelname)s: %(message)s"))
    logger = logging.getLogger("qamro_cache")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


def show_scores(
    title: str, models: Mapping[str, Mapping[str, Any]], ceiling: Mapping[str, float] | None
) -> None:
    """Print what `qamro_cache.evaluation.score.score` returned for each model, a level a row."""
    rows = []
    fitted = False
    for model, scored in models.items():
        for level, count in (("clip", "clips"), ("system", "systems")):
            metrics = scored["metrics"]
            if f"{level}_srcc" not in metrics:
                continue
            fitted |= f"{level}_mse_fit" in metrics
            mse = metrics.get(f"{level}_mse") or metrics[f"{level}_mse_fit"]
            others = [metrics.get(f"{level}_{name}") for name in ("lcc", "srcc", "ktau")]
            srcc = metrics[f"{level}_srcc"]
            rows.append(
                [
                    model,
                    level,
                    str(scored[count]),
                    _number(mse["value"]),
                    *(_number(metric["value"]) if metric else "" for metric in others),
                    _span(srcc["low"], srcc["high"]),
                    _number(srcc["std"]),
                ]
            )
    for name, value in (ceiling or {}).items():
        level = name.partition("_")[0]
        rows.append(["raters' ceiling", level, "", "", "", _number(value), "", "", ""])
    mse_name = "MSE (fit)" if fitted else "MSE"
    columns = ["", "level", "n", mse_name, "LCC", "SRCC", "KTAU", "SRCC, 95 %", "std"]
    show_table(columns, rows, title=title, left=2)


def _span(low: float | None, high: float | None) -> str:
    """An interval; - where there is none."""
    if low is None or low != low:
        return "-"
    return f"{_number(low)} to {_number(high)}"


def _number(value: float | None) -> str:
    """Three decimals, one for large errors; - where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
