"""What a run or grid found, for TensorBoard, trackio, Weights & Biases or MLflow: a row a cell.

The tables and records of its folder are read; they stay the truth.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qamro_cache.encoders.support import missing_packages
from qamro_cache.errors import OptionError, QamroError, unknown, words_of
from qamro_cache.evaluation.figures import FIGURES
from qamro_cache.files import try_place
from qamro_cache.paths import PathLike, as_path
from qamro_cache.reports.read import Folder, read_folder
from qamro_cache.training.recipe import RECIPE

#: What `track` takes by name -> the package that it needs.
TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb",
            "mlflow": "mlflow"}  # fmt: skip
#: Where nobody names one.
PROJECT = "qamro-cache"


class Tracker(Protocol):
    """What takes rows: the modules ``wandb`` and ``trackio``, or anything that has these three."""

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> Any:
        """Begin a row with its settings."""

    def log(self, metrics: dict[str, float], /) -> Any:
        """Take its figures, once."""

    def finish(self) -> Any:
        """End it."""


class Row(NamedTuple):
    """A cell of a grid, or a run: its name, settings, and ``<axis>/<figure>`` -> value."""

    name: str
    settings: dict[str, Any]
    figures: dict[str, float]


def track(folder: PathLike, to: str | Tracker, project: str = PROJECT) -> int:
    """Give what a folder holds to a tracker: a row a cell, whatever its heads and epochs.

    Args:
        folder: of qamro-train or qamro-ablate.
        to: ``tensorboard:DIR``, or ``trackio``, ``wandb`` or ``mlflow``, each with ``:PROJECT`` if
            wanted; or any object with ``init``, ``log`` and ``finish`` as theirs.
        project: that rows belong to, where ``to`` names none.

    Returns:
        How many rows.

    Raises:
        OptionError: there is no such tracker, or its package is not installed.
        QamroError: the folder cannot be read, or the tracker failed.
    """
    path = as_path(folder, "a folder")
    rows = list(rows_of(read_folder(path)))
    if isinstance(to, str):
        to, project = tracker_of(to, project)
    for row in rows:
        try:
            to.init(project=project, name=row.name, config=row.settings)
            try:
                to.log(row.figures)
            finally:
                to.finish()
        except Exception as error:  # each tracker has its own
            raise QamroError(
                f"the tracker took no row {row.name!r} ({words_of(error)}); the results are in "
                f"{path} all the same"
            ) from error
    return len(rows)


def tracker_of(text: str, project: str = PROJECT) -> tuple[Tracker, str]:
    """Return the tracker of ``NAME`` or ``NAME:WHERE``, and its project; asked before the work.

    Raises:
        OptionError: there is none of that name, or its package is not installed.
    """
    name, _, where = text.partition(":")
    if name not in TRACKERS:
        raise unknown("--track: no tracker", name, tuple(TRACKERS))
    for line in missing_packages((TRACKERS[name],), name):
        raise OptionError(f"--track {name}: {line}")
    if name == "tensorboard":
        if not where:
            raise OptionError("--track tensorboard: name its folder too, tensorboard:DIR")
        try_place(Path(where) / "events")
        return _TensorBoard(Path(where)), project
    try:
        module: Any = import_module(name)
    except Exception as error:  # whatever an installation that is not whole raises
        raise QamroError(f"--track {name}: {name} cannot be loaded: {words_of(error)}") from error
    return _MLflow(module) if name == "mlflow" else module, where or project


def rows_of(folder: Folder) -> Iterator[Row]:
    """Yield the rows of a folder: the cells of a grid, or the one of a run."""
    record, config = folder.record, folder.config
    about = {name: record.get(name) for name in ("dataset", "encoder", "feature", "synthetic")}
    about |= {"folder": folder.name, "seeds": config.get("seeds")}
    if folder.summary is None:
        found = {
            f"{axis}/{name}": value
            for axis, one in record["axes"].items()
            if "models" in one
            for name, value in _of_record(next(iter(one["models"].values()))["metrics"]).items()
        }
        yield _row(folder.name, {**about, **config.get("recipe", {})}, found)
        return
    heads = folder.summary[folder.summary["model"] == "head"]
    names = list(folder.summary.columns[: folder.summary.columns.get_loc("model")])
    recipes = [cell["recipe"] for cell in config.get("cells", [])] or [{}]
    same = {name: value for name, value in recipes[0].items()
            if all(one.get(name) == value for one in recipes)}  # fmt: skip
    cells: dict[tuple[str, ...], dict[str, float]] = {}
    for _, one in heads.iterrows():
        key = tuple(str(one[name]) for name in names)
        figures = {name: one.get(name, "") for name in _columns()}
        into = cells.setdefault(key, {})
        into |= {f"{one['axis']}/{name}": _number(value) for name, value in figures.items()}
    for key, found in cells.items():
        own = {name: _value(text) for name, text in zip(names, key, strict=True) if text}
        name = ", ".join(f"{one}={text}" for one, text in own.items())
        yield _row(name or folder.name, {**about, **same, **own}, found)


def _row(name: str, settings: Mapping[str, Any], figures: Mapping[str, float]) -> Row:
    """Return a row of plain values, without figures that are undefined."""
    shown = {key: _shown(key, value) for key, value in settings.items() if value is not None}
    return Row(name, shown, {key: v for key, v in figures.items() if math.isfinite(v)})


def _shown(name: str, value: Any) -> Any:
    """Return a setting as trackers take it: a number, or text."""
    if name in RECIPE and isinstance(value, bool | list):
        return RECIPE[name].show(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _of_record(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures of ``metrics.json`` by the names of a grid's columns."""
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        parts = {"": "value", "_low": "low", "_high": "high"}
        found |= {f"{name}{end}": _number(metric.get(part)) for end, part in parts.items()}
    return found


def _columns() -> list[str]:
    return [*(f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")), "mcs_p"]


def _value(text: str) -> Any:
    """Return a setting of a table: a number, or the text."""
    number = _number(text)
    return number if math.isfinite(number) else text


def _number(value: Any) -> float:
    """Return a number; NaN of anything else."""
    with suppress(TypeError, ValueError):
        return float(value)
    return math.nan


class _TensorBoard:
    """A folder of event files: one a row, with its hparams and scalars."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.name, self.config = "", dict[str, Any]()

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> None:
        """See `Tracker`."""
        self.name, self.config = name, config

    def log(self, metrics: dict[str, float], /) -> None:
        """See `Tracker`."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # Of a cell's name what any disk takes; its number tells it from others like it.
        plain = re.sub(r"[^\w=.,+-]+", "_", self.name)[:80]
        where = self.folder / str(self.config["folder"]) / f"{self.count:03d} {plain}"
        with SummaryWriter(log_dir=str(where)) as writer:
            for summary in hparams(self.config, metrics):
                writer.file_writer.add_summary(summary)
            for name, value in metrics.items():
                writer.add_scalar(name, value)

    def finish(self) -> None:
        """See `Tracker`."""
        self.count += 1


class _MLflow:
    """MLflow, whose functions have other names."""

    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def init(self, *, project: str, name: str, config: dict[str, Any]) -> None:
        """See `Tracker`."""
        self.mlflow.set_experiment(project)
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params(config)

    def log(self, metrics: dict[str, float], /) -> None:
        """See `Tracker`."""
        # Of the signs of an axis' name it takes these.
        self.mlflow.log_metrics(
            {re.sub(r"[^\w. :/-]", "_", name): v for name, v in metrics.items()}
        )

    def finish(self) -> None:
        """See `Tracker`."""
        self.mlflow.end_run()
