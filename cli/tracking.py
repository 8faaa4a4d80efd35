"""``--track``: what a command found, given to a tracker too."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import printable

if TYPE_CHECKING:
    from qamro_cache.integrations.tracking import Tracker


def tracker_wanted(text: str | None) -> "tuple[Tracker, str] | None":
    """Return the tracker of ``--track``, looked at before the work."""
    if text is None:
        return None
    from qamro_cache.integrations.tracking import tracker_of

    return tracker_of(text)


def give_rows(out: Path, wanted: "tuple[Tracker, str] | None") -> None:
    """Give the folder of a run or grid to a tracker, if one is wanted, and say so."""
    if wanted is None:
        return
    from qamro_cache.integrations.tracking import track

    rows = track(out, *wanted)
    click.echo(printable(f"tracked: {rows} row{'s' * (rows != 1)} of {out}"), err=True)
