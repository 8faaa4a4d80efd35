"""The progress of an extraction on a terminal, or now and then in a log file."""

from typing import Any

import click

from .common import SECONDS_A_LINE


class ExtractionBar:
    """A progress bar on stderr; plain lines now and then where stderr is no terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("clips"),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.total}"),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None
        self._last = 0.0

    def __enter__(self) -> "ExtractionBar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, stats: Any) -> None:
        """Show where the run is."""
        done = stats.clips_reused + stats.clips_done + stats.clips_begun
        # Parts of a clip show where one takes minutes.
        shown = f"{done:.0f}" if float(done).is_integer() else f"{done:.2f}"
        left = stats.seconds_left
        note = (
            f"{stats.clips_per_second:.1f} clips/s, {stats.failed} failed, "
            f"encoder waits {100 * stats.wait_share:.0f} %, "
            f"{'' if left is None else _duration(left) + ' left'}"
        )
        if self._progress.disable:
            if stats.elapsed - self._last > SECONDS_A_LINE:
                self._last = stats.elapsed
                click.echo(f"{shown}/{stats.clips_total} clips: {note}", err=True)
            return
        if self._task is None:
            self._task = self._progress.add_task("", total=stats.clips_total, note=note, done=shown)
        self._progress.update(self._task, completed=done, note=note, done=shown)


def _duration(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
