"""qamro-ablate: every cell of a grid at once, on the same held-out clips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qamro_cache.errors import QamroError

from .common import (
    notices_to_stderr,
    one_line_errors,
    printable,
    show_table,
    version_option,
)
from .recipe_options import SETTINGS, File, parse_widths, run_options, training_bar


def _values(kind: Any, name: str) -> Callable[..., list[Any] | None]:
    """Return a callback that reads values of one type joined by commas: ``0.1,0.2``."""
    one = click.types.convert_type(kind)

    def read(context: click.Context, option: click.Parameter, text: str | None) -> Any:
        if text is None:
            return None
        parts = [part.strip() for part in text.split(",")]
        if name == "widths":
            return [parse_widths(part) for part in parts]
        return [one.convert(part, option, context) for part in parts]

    return read


def _setting_options(command: Any) -> Any:
    own: dict[str, tuple[Any, str]] = {
        "feature": (str, "Of the cache [its first]."),
        "raters": (int, "Ratings a clip behind the training labels, 0 for all [0]."),
        "cv": (
            str,
            "How clips are held out: system, group, prompt, split or a number of folds "
            "[the split column, else group, else 5].",
        ),
    }
    for name, (kind, text) in reversed({**SETTINGS, **own}.items()):
        flag = f"--{name.replace('_', '-')}"
        add = click.option(
            flag, name, metavar="LIST", default=None, help=text, callback=_values(kind, name)
        )
        command = add(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--cache",
    "caches",
    type=File,
    required=True,
    multiple=True,
    help="From qamro-extract; caches of several encoders are compared.",
)
@click.option("--out", type=File, required=True, help="Folder for the tables; goes on in it.")
@click.option("--grid", "grid_name", default="", help="A TOML file, or a name from --list-grids.")
@click.option("--list-grids", is_flag=True, is_eager=True, help="Show the grids that come along.",
              callback=lambda ctx, _, value: _list_grids(ctx) if value else None,
              expose_value=False)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=None, help="Heads a cell and fold [5]."
)
@click.option(
    "--resamples",
    default=1000,
    type=click.IntRange(min=0),
    show_default=True,
    help="Bootstrap draws.",
)
@click.option("--json", "as_json", is_flag=True, help="Print best.json on stdout.")
@run_options
@_setting_options
@version_option
@one_line_errors
def main(
    caches: tuple[Path, ...],
    out: Path,
    grid_name: str,
    axis: tuple[str, ...],
    labels: Path | None,
    seeds: int | None,
    stop: str | None,
    resamples: int,
    device: str,
    precision: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Train heads for every combination of settings and compare them on held-out clips.

    Settings take several values joined by commas (--alpha 0.1,0.2,0.5 --beta 3,5,7,10). Options
    given here replace those of --grid. Stopped at any moment, the same command goes on.
    """
    notices_to_stderr()
    from qamro_cache.experiments.early import check_ablate
    from qamro_cache.experiments.grid import Grid, override, read_grid

    grid = read_grid(_grid_file(grid_name)) if grid_name else Grid()
    grid = override(grid, {name: value for name, value in values.items() if value is not None})
    run = grid.run
    asked: dict[str, Any] = {
        "grid": grid,
        "axis": axis or tuple(run.get("axis", ())),
        "labels": labels,
        "seeds": int(run.get("seeds", 5)) if seeds is None else seeds,
        "cv": str(run.get("cv", "")),
    }
    opened = check_ablate(caches, out, **asked)
    from qamro_cache.evaluation.score import json_text
    from qamro_cache.experiments.ablate import ablate

    with training_bar() as progress:
        best = ablate(
            opened,
            out,
            **asked,
            stop=str(run.get("stop", "")) if stop is None else stop,
            resamples=resamples,
            device=device,
            precision=precision,
            progress=progress,
        )
    if as_json:
        click.echo(json_text(best))
        return
    _show(out, best)


def _show(out: Path, best: dict[str, Any]) -> None:
    import pandas as pd

    from qamro_cache.experiments.tables import question

    summary = pd.read_csv(out / "summary.csv", keep_default_na=False, dtype={"cv": str})
    fixed = list(summary.columns[: summary.columns.get_loc("seeds")])
    columns = [
        "clip_mse",
        "clip_srcc",
        "clip_srcc_low",
        "clip_srcc_high",
        "system_srcc",
        "diverged",
    ]
    asked = [
        question(axis, cv)
        for axis, cv in zip(summary["axis"], summary.get("cv", [None] * len(summary)), strict=True)
    ]
    for axis, part in summary.groupby(asked, sort=False):
        rows = [
            [str(row[name]) for name in fixed if name != "axis"]
            + [_number(row.get(name, "")) for name in columns]
            for _, row in part.iterrows()
        ]
        left = [name for name in fixed if name != "axis"]
        title = f"{'synthetic data: ' if best['synthetic'] else ''}{axis}"
        show_table([*left, *columns], rows, title=title, left=len(left))
        record = best["axes"][axis]
        if record["cell"] is None:
            click.echo(printable(f"{axis}: no best cell: {record['reason']}"))
            continue
        cell = ", ".join(f"{name}={value}" for name, value in record["cell"].items())
        verdict = (
            "clearly above all others"
            if record["clearly_best"]
            else f"but {len(record['not_told_apart'])} others cannot be told from it"
            if record["not_told_apart"]
            else "the only cell"
        )
        click.echo(
            printable(f"{axis}: highest {record['metric']} with {cell or 'this cell'}, {verdict}")
        )


def _number(value: Any) -> str:
    try:
        return f"{float(value):.3f}"
    except ValueError:
        return "-"


def _grid_folder() -> Path:
    from importlib.resources import files

    return Path(str(files("qamro_cache_data"))) / "grids"


def _grid_file(name: str) -> Path:
    """Return a file that exists, or the shipped grid of that name."""
    path = Path(name)
    shipped = {grid.stem: grid for grid in sorted(_grid_folder().glob("*.toml"))}
    if not path.exists() and name not in shipped:
        raise QamroError(
            f"--grid {name}: there is no such file, and no grid of that name; "
            f"there are: {', '.join(shipped)}"
        )
    return path if path.exists() else shipped[name]


def _list_grids(context: click.Context) -> None:
    import tomllib

    for path in sorted(_grid_folder().glob("*.toml")):
        click.echo(f"{path.stem:20} {tomllib.loads(path.read_text()).get('about', '')}")
    context.exit()
