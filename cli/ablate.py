"""qamro-ablate: every cell of a grid at once, on the same held-out clips."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qamro_cache.experiments.grid import CELL, shipped_grids
from qamro_cache.experiments.options import AblateOptions
from qamro_cache.reports.numbers import number, short_span

from .common import OneLine, notices_to_stderr, version_option
from .completion import complete
from .options import (
    CACHES,
    NO_KERNELS,
    OUT_FOLDER,
    REPORT,
    TRACK,
    Name,
    request_options,
    setting_options,
)
from .report import page_of_folder, page_to_make
from .scores import figure, show_heading
from .tables import show_cells, show_lines
from .tracking import give_rows, tracker_wanted
from .training_bar import training_bar

if TYPE_CHECKING:
    import pandas as pd

#: Of ``summary.csv``, on the screen; the interval is of the clip SRCC.
_SHOWN = ("clip_mse", "clip_rmse", "clip_srcc", "95 %", "mcs_p", "system_srcc", "diverged")
#: Where there are pairs.
_OF_PAIRS = ("pairs_accuracy", "pairs_log_loss")


def _list_grids(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Show the grids that come along, and leave."""
    import tomllib

    if wanted:
        for name, path in shipped_grids().items():
            click.echo(f"{name:20} {tomllib.loads(path.read_text()).get('about', '')}")
        context.exit()


@click.command(
    cls=OneLine,
    stopped="the same command goes on: heads are kept in --out, finished or part way",
    epilog="\b\nFor example:\n"
    "  qamro-ablate --cache emb.h5 --cv group --alpha 0.1,0.2 --beta 3,7 --out grid\n"
    "Then:\n"
    "  qamro-report grid",
)
@CACHES
@OUT_FOLDER
@click.option(
    "--grid",
    type=Name(),
    shell_complete=complete,
    help="A TOML file, or a name from --list-grids.",
)
@click.option(
    "--list-grids",
    is_flag=True,
    is_eager=True,
    callback=_list_grids,
    expose_value=False,
    help="Show the grids that come along.",
)
@request_options(AblateOptions)
@setting_options(CELL, listed=True, flag=False)
@NO_KERNELS
@REPORT
@TRACK
@click.option("--json", "as_json", is_flag=True, help="Print best.json on stdout.")
@version_option
def main(
    cache: tuple[Path, ...],
    out: Path,
    grid: str | None,
    report: str | None,
    track: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train heads for every combination of settings and compare them on held-out clips.

    Caches of several encoders are compared. Settings take several values joined by commas (--alpha
    0.1,0.2,0.5 --beta 3,5,7,10). Options given here replace those of --grid. Stopped at any moment,
    the same command goes on.
    """
    notices_to_stderr()
    from qamro_cache.experiments.request import ablate_request

    request = ablate_request(cache, out, grid or "", options)
    page, tracker = page_to_make(out, report), tracker_wanted(track)
    from qamro_cache.experiments.ablate import run_ablate
    from qamro_cache.files import json_text

    with training_bar() as progress:
        best = run_ablate(request, progress)
    if as_json:
        click.echo(json_text(best))
    elif "left" in best:
        show_lines(
            f"{out}: {best['heads'] - best['left']} of {best['heads']} heads are "
            "done; the tables are written when the other parts have trained the rest"
        )
    else:
        _show(out, best)
    if "left" not in best:
        page_of_folder(out, page)
        give_rows(out, tracker)


def _show(out: Path, best: dict[str, Any]) -> None:
    """Print ``summary.csv``, a table a question, with the verdict below."""
    import pandas as pd

    from qamro_cache.experiments.tables import question
    from qamro_cache.reports.choice import choice_words, nested_words

    summary = pd.read_csv(out / "summary.csv", keep_default_na=False, dtype={"cv": str})
    named = [name for name in summary.columns[: summary.columns.get_loc("seeds")] if name != "axis"]
    asked = [
        question(axis, cv)
        for axis, cv in zip(summary["axis"], summary.get("cv", [None] * len(summary)), strict=True)
    ]
    split = {asks["cv"]: asks["split"] for asks in best["questions"]}
    for place, (axis, part) in enumerate(summary.groupby(asked, sort=False)):
        if place:
            click.echo()
        shown = [*_SHOWN, *(name for name in _OF_PAIRS if name in summary.columns)]
        rows = [
            [str(row[name]) for name in named] + [_cell(row, name) for name in shown]
            for _, row in part.iterrows()
        ]
        first = dict(part.iloc[0])
        held_out = [split[first["cv"]]] if "cv" in first else dict.fromkeys(split.values())
        show_heading(str(axis), {**best, "split": "; ".join(held_out)}, first)
        show_cells([*named, *shown], rows, len(named))
        found = best["axes"][axis]
        show_lines(first["signature"])
        lines = [f"{axis}: {line}" for line in nested_words(found)]
        lines += [f"{axis}: this cell {verdict['words']}" for verdict in found["verdicts"]]
        show_lines(choice_words(str(axis), found), *lines, hang=2)


def _cell(row: "pd.Series[Any]", name: str) -> str:
    """Return what a column of the screen's table shows."""
    if name.startswith(("clip_", "system_")):
        return figure(name.partition("_")[2], row.get(name, ""))
    if name != "95 %":
        return number(row.get(name, ""))
    low, high = (row[f"clip_srcc_{end}"] for end in ("low", "high"))
    return short_span(low, high)
