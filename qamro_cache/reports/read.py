"""Read the folders of runs and grids, as their commands wrote them."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache.errors import QamroError, words_of
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.experiments.tables import question
from qamro_cache.reports.clips import Predicted, predicted_of

#: Options whose value says nothing that the page does not say by itself.
_TOLD = ("overwrite", "device")


@dataclass(frozen=True)
class Folder:
    """What lies in a folder of ``qamro-train``, ``qamro-ensemble`` or ``qamro-ablate``.

    Attributes:
        path: of the folder.
        config: of ``config.json``.
        record: of ``metrics.json``, or ``best.json``.
        predictions: of ``predictions.csv``; of a grid those of its highest cells.
        summary: of ``summary.csv``, None of a run.
        study: of ``study.csv``, None without one.
    """

    path: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    predictions: pd.DataFrame
    summary: pd.DataFrame | None = None
    study: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def grid(self) -> bool:
        """Whether it is of ``qamro-ablate``."""
        return self.summary is not None

    @property
    def interval(self) -> Kind:
        """The kind of interval that its figures have."""
        return Kind.of_record(self.record)

    @property
    def cv(self) -> str:
        """How clips were held out; empty where ways are compared."""
        ways = {str(one.get("cv", "")) for one in self.record.get("questions", [self.config])}
        return ways.pop() if len(ways) == 1 else ""

    def predicted(self, name: str) -> Predicted:
        """Return the predictions of an axis, or of another question that a grid asks."""
        table = self.predictions
        ways = table["cv"] if "cv" in table else [None] * len(table)
        mine = [question(*one) == name for one in zip(table["axis"], ways, strict=True)]
        part = table[np.array(mine, np.bool_)]
        cv = next(iter(part["cv"]), "") if "cv" in part else self.cv
        return predicted_of(part, self.config.get("audio", {}), cv)

    @property
    def command(self) -> str:
        """The command that was given, as far as it is known."""
        words = ["qamro-ablate" if self.grid else "qamro-train"]
        materials = self.config.get("materials", [self.config])
        caches = [path for one in materials for path in one.get("cache", [])]
        given = dict(self.config.get("given", {}))
        if "grid" in given and not self.grid:
            words, caches = ["qamro-ensemble", str(given.pop("grid"))], []
        for path in dict.fromkeys(caches):
            words += ["--cache", path]
        for name, value in given.items():
            if name not in _TOLD:
                words += _option(name, value, joined=self.grid)
        return shlex.join([*words, "--out", str(self.path)])


def _option(name: str, value: Any, *, joined: bool) -> list[str]:
    """Return an option as a command line has it; a grid's settings are joined by commas."""
    word = f"--{name.replace('_', '-')}"
    if isinstance(value, list):
        repeated = name in ("axis", "only", "without", "columns", "scale")
        if joined and not repeated:
            return [word, ",".join(_text(one) for one in value)]
        if name == "widths":
            return [word, "-".join(map(str, value))]
        return [part for one in value for part in (word, _text(one))]
    if name in ("keep_together", "save_folds") or (name == "calibrate" and not joined):
        return [word] if value else []
    return [word, _text(value)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_folder(path: Path) -> Folder:
    """Read the folder of a run or a grid.

    Raises:
        QamroError: it is none, or a file of it cannot be read.
    """
    for record in ("metrics.json", "best.json"):
        if (path / record).is_file():
            return Folder(
                path,
                _json(path / "config.json"),
                _json(path / record),
                _table(path / "predictions.csv"),
                _table(path / "summary.csv") if record == "best.json" else None,
                _table(path / "study.csv") if (path / "study.csv").is_file() else None,
            )
    raise QamroError(
        f"{path} holds neither metrics.json nor best.json; name a folder that qamro-train or "
        "qamro-ablate wrote"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError, RecursionError) as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    if not isinstance(record, dict):
        raise QamroError(f"{path} holds no record; run the command that writes it again")
    return record


_NUMBERS = ("prediction", "target", "x", "value", "low", "high")
#: Columns that a page reads; others may be missing.
_NEEDED = {
    "predictions.csv": ("clip_id", "axis", "seed", "prediction", "target"),
    "summary.csv": ("axis", "model"),
    "study.csv": ("axis", "cv", "study", "model", "cell", "x", "figure", "value", "low", "high"),
}


def _table(path: Path) -> pd.DataFrame:
    names = ("clip_id", "system", "group", "axis", "fold", "cv", "model")
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(names, str),
            keep_default_na=False,
            na_values={name: [""] for name in _NUMBERS},
            encoding_errors="surrogateescape",
        )
    except (OSError, ValueError) as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    for name in _NEEDED[path.name]:
        if name not in table:
            raise QamroError(f"{path}, row 1: there is no column {name!r}")
    return table
