"""What an ensemble leaves behind: what its files say of the grid's cells and clips."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from qamro_cache.datasets.registry import defaults_chosen_on
from qamro_cache.evaluation.ensembles import Averaged
from qamro_cache.evaluation.judged import Floats
from qamro_cache.experiments.data import Material, words_of_all
from qamro_cache.experiments.grid_folder import EnsembleRequest
from qamro_cache.experiments.tables import Outcome
from qamro_cache.experiments.train import far_clips
from qamro_cache.version import __version__


class Candidate(NamedTuple):
    """A cell that one axis can be averaged of.

    Attributes:
        part: position among the grid's parts.
        cell: position in the grid.
        axis: among the part's.
        outcome: its held-out predictions, and what it can be chosen by.
        steps: of its folds' heads that did not diverge.
        times: how often it counts in the ensemble that is saved.
    """

    part: int
    cell: int
    axis: int
    outcome: Outcome
    steps: list[int]
    times: int = 0

    @property
    def pred(self) -> Floats:
        """[C] held-out predictions, the seeds averaged."""
        mean: Floats = self.outcome.predictions.mean(0)
        return mean


def predictions_of(
    cells: Sequence[Candidate], estimate: Averaged, materials: Sequence[Material]
) -> pd.DataFrame:
    """Return held-out predictions as rows clip_id, system, group, axis, seed, fold, ..."""
    outcome = cells[0].outcome
    assert outcome.clips is not None
    assert outcome.inside is not None
    ood = np.zeros(len(estimate.pred), np.bool_)
    far = {place: far_clips(materials[place]) for place in {one.part for one in cells}}
    for fold, held in enumerate(outcome.inside.test):
        for one, times in zip(cells, estimate.times[fold], strict=True):
            if times:
                ood[held] |= far[one.part][fold][held]
    known = np.isfinite(estimate.pred)
    return outcome.clips[known].assign(
        axis=outcome.axis,
        seed="mean",
        prediction=estimate.pred[known],
        target=outcome.inside.labels[known],
        std=estimate.std[known],
        ood=ood[known],
    )


def config_of(
    request: EnsembleRequest, materials: Sequence[Material], device: str
) -> dict[str, Any]:
    """Return what ``config.json`` and the head file say of the run."""
    grid, origins = request.grid, [one.origin() for one in materials]
    held_out = grid.parts[0].held_out
    return {
        **words_of_all(origins, ("dataset", "encoder", "feature", "context")),
        "synthetic": any(one["synthetic"] for one in origins),
        "licenses": origins[0]["licenses"],
        "axes": list(dict.fromkeys(axis.name for part in grid.parts for axis in part.clips.axes)),
        "seeds": grid.options.seeds,
        "cv": held_out.cv,
        "stop": "inner" if held_out.inner else "fixed",
        "device": device,
        "precision": grid.options.precision,
        "asked": request.asked,
        "given": request.given,
        "versions": {"qamro_cache": __version__, "torch": torch.__version__},
    }


def record_of(
    request: EnsembleRequest, materials: Sequence[Material], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``metrics.json`` holds."""
    config, parts = config_of(request, materials, ""), request.grid.parts
    asks = dict.fromkeys(part.held_out.question for part in parts)
    return {
        **{name: config[name] for name in ("dataset", "synthetic", "encoder", "feature")},
        "defaults_chosen_on": defaults_chosen_on(str(config["dataset"])),
        "split": "; ".join(asks),
        "copies": parts[0].held_out.copies.record(),
        "interval": request.grid.options.kind._asdict(),
        "axes": dict(metrics),
    }
