"""The progress of a training on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def training_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Show epochs and the heads that still run on stderr; yield the callback that moves it."""
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

        def move(done: int, total: int, running: int) -> None:
            bar.update(task, completed=done, total=total, running=running)

        yield move
