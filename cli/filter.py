"""``qamro-filter``: which clips to keep by their predictions."""

from pathlib import Path

import click

from .common import OneLine, notices_to_stderr, printable, version_option
from .options import OUT_FOLDER, File
from .tables import show_table


@click.command(cls=OneLine)
@click.option(
    "--predictions",
    type=File,
    required=True,
    help="Table of qamro-predict, or the folder of a run; of several seeds the mean counts.",
)
@click.option(
    "--min",
    "asked",
    multiple=True,
    metavar="AXIS:NUMBER",
    help="Keep clips whose prediction on the axis is at least that; may repeat: all must hold.",
)
@click.option(
    "--max-ood",
    is_flag=True,
    help="Leave out clips that are out of distribution on these axes; without --min, on any.",
)
@OUT_FOLDER
@version_option
def main(predictions: Path, asked: tuple[str, ...], max_ood: bool, out: Path) -> None:
    """Keep the clips that are good enough, and see what other thresholds would keep.

    Writes kept.txt, a clip's id a line, and retention.csv: how many clips each threshold keeps.
    """
    notices_to_stderr()
    if not (asked or max_ood):
        raise click.UsageError("say what to keep: --min AXIS:NUMBER, or --max-ood")
    from qamro_cache.reports.numbers import number
    from qamro_cache.scoring.keep import KEPT_FILE, RETENTION_FILE, keep, parse_minimum

    minimum = parse_minimum(asked)
    found = keep(predictions, minimum, ood=not max_ood, out=out)
    rows = []
    for axis, part in found.retention.groupby("axis", sort=False):
        shares = [part[part["share"] >= share].tail(1) for share in (0.9, 0.5, 0.1)]
        cells = [number(one["min"].iloc[0]) if len(one) else "-" for one in shares]
        rows.append([str(axis), number(minimum.get(str(axis))), *cells])
    show_table(
        ["axis", "--min", "keeps 90 %", "keeps 50 %", "keeps 10 %"],
        rows,
        title=f"{predictions}: {len(found.clip_ids)} of {found.clips} clips kept; {found.failed} "
        f"without a prediction, {found.ood} out of distribution; thresholds:",
    )
    click.echo(printable(f"wrote {out / KEPT_FILE}, {out / RETENTION_FILE}"), err=True)
