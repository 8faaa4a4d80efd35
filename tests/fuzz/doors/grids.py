"""A grid file through `qamro-ablate`: refused in a line, or its first cell is trained.

What a grid may legally ask for takes hours; so of an accepted one a cell is trained, for an
epoch and a seed.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from qamro_cache_cli.ablate import main as ablate_command
from synthetic_cache import write_synthetic

from fuzz.commands import run
from fuzz.harness import Door
from fuzz.mutate_toml import hostile_toml
from qamro_cache.experiments import ablate

#: Grids that are right, with every kind of value.
GRIDS: tuple[dict[str, Any], ...] = (
    {
        "about": "alpha x beta",
        "seeds": 2,
        "axis": ["quality"],
        "stop": "fixed",
        "cv": 3,
        "grid": {"alpha": [0.1, 0.5], "beta": [3, 7.0], "batch_size": [8, 16]},
        "settings": {"epochs": 2, "widths": [4], "lr": 1e-3, "batches": "own"},
        "cells": [{"loss": "huber@standardized"}, {"head": "linear", "raters": 2}],
    },
    {
        "grid": {
            "loss": ["mse@raw", "0.5*huber(delta=2)+2*qamro(alpha=0.1)@standardized"],
            "widths": [[4, 2], [8], []],
            "cv": ["group", "system", 2],
            "raters": [1, 0],
        },
        "settings": {"dropout": 0.1, "optimizer": "adamw", "activation": "relu"},
    },
    {
        "grid": {"feature": ["embedding"], "patience": [1, 2], "momentum": [0, 0.9]},
        "cells": [{"feature": "layers", "head": "audiobox", "widths": []}],
        "settings": {"epochs": 1, "weight_decay": 0.0},
    },
)


def prepare(folder: Path) -> None:
    write_synthetic(folder / "emb.h5", clips=24)


def load(folder: Path) -> Path:
    real = ablate.run_ablate

    def first_cell(request: Any, progress: Any = None) -> Any:
        cell, options = request.cells[0], replace(request.options, seeds=1, resamples=0)
        cell = replace(cell, recipe=replace(cell.recipe, epochs=1, batch_size=24))
        return real(replace(request, cells=[cell], options=options), progress)

    ablate.run_ablate = first_cell
    return folder


def case(good: Path, choose: random.Random, place: Path) -> str:
    grid = place / "grid.toml"
    grid.write_bytes(hostile_toml(choose.choice(GRIDS), choose))
    cache = good / "emb.h5" if choose.random() < 0.4 else good / "none.h5"
    code, _ = run(
        ablate_command, "--cache", cache, "--grid", grid, "--out", place / "out", "--json"
    )
    return "refused" if code else "taken"


DOOR = Door("grids", prepare, load, case)
