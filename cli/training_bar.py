"""The progress of a training on a terminal, or now and then in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from .common import SECONDS_A_LINE


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Show epochs and the heads that still run on stderr; yield the callback that moves it.

    Where stderr is no terminal, these are plain lines now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %, {task.fields[running]} heads running"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("training", total=None, running=0)
        last = time.monotonic()

        def move(done: int, total: int, running: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total, running=running)
            now = time.monotonic()
            if not live and done and now - last > SECONDS_A_LINE:
                last = now
                share = f"{100 * done / total:.0f} %"
                click.echo(f"training: {share}, {running} heads running", err=True)

        yield move
