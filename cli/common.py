"""What the commands share: one clear line for a user's mistake, tables, progress bars."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, TypeVar

import click

from qamro_cache.errors import QamroError

Command = TypeVar("Command", bound=Callable[..., Any])


def one_line_errors(command: Command) -> Command:
    """Turn the user's mistakes into one line on stderr and exit code 1; never a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            fail("stopped; run the same command again to go on")
        except (QamroError, OSError) as error:
            fail(printable(str(error)))

    return wrapped  # type: ignore[return-value]


def fail(message: str) -> None:
    """Say what is wrong on stderr and leave with exit code 1."""
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


def printable(text: str) -> str:
    """Escape what could move a terminal's cursor or colours; one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # A pipe or a log file has no width; do not fold a table there.
    console = Console(stderr=err, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=err, highlight=False, width=160)
    console.print(table)


def notices_to_stderr() -> None:
    """Send the library's notices (logging, logger ``qamro_cache``) to stderr, a line each."""
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("qamro_cache")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
