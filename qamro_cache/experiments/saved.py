"""What a run leaves behind: its figures, its out-of-fold predictions and its heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qamro_cache.datasets.axes import guess_scale
from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.experiments.calibrated import SAVED, Calibrations, calibrated
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.fitting import Fitted, axis_head
from qamro_cache.experiments.labels import on_its_tests, raters_record
from qamro_cache.experiments.paired import geometric
from qamro_cache.experiments.store import RUN_FILES, audio_of
from qamro_cache.experiments.unpaired import alone
from qamro_cache.features.context import Context
from qamro_cache.files import replace_folder, write_json, write_table
from qamro_cache.heads.calibration import Calibration
from qamro_cache.heads.file import save_head
from qamro_cache.heads.head import AxisHead, Head, Preference
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.trained import trained_clips
from qamro_cache.training.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """What was trained of the axes that are rated on the same clips.

    Attributes:
        material: the clips as the folds' heads see them.
        recipe: of the heads.
        estimate: heads of the folds.
        refit: heads to be saved.
        whole: the clips as they see them, in the one fold that they were trained on.
        calibrations: of the heads, where they have some.
    """

    material: Material
    recipe: Recipe
    estimate: Fitted
    refit: Fitted
    whole: Material
    calibrations: Calibrations = field(default_factory=dict)

    def calibration(self, fold: int) -> Mapping[str, Mapping[str, Calibration]]:
        """Return that of a fold's heads, or of the saved ones, by axis and test."""
        return self.calibrations.get(fold, {})


#: Heads of one fold: the material, the heads of all folds, and the number of this one.
_Members = tuple[Material, Fitted, int]


def save_run(
    out: Path,
    runs: Sequence[Run],
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    predictions: pd.DataFrame,
    *,
    keep_folds: bool,
) -> None:
    """Write a run's folder, whole: what another run left there goes in the same step.

    Args:
        out: the folder.
        runs: of the axes, those of the same clips together.
        config: of ``config.json``, kept in the head files too.
        record: of ``metrics.json``.
        predictions: of ``predictions.csv``.
        keep_folds: whether to keep the folds' heads as ``folds/*.safetensors``.
    """
    recipe = runs[0].recipe
    with replace_folder(out, (*RUN_FILES, "folds")) as new:
        write_json(new / "config.json", {**config, **_files(runs)})
        write_json(new / "metrics.json", record)
        write_table(new / "predictions.csv", predictions)
        whole = [(run.whole, run.refit, 0) for run in runs]
        marks = {n: one for run in runs for n, one in run.calibration(SAVED).items()}
        head = calibrated(head_of(recipe, whole, config), marks)
        head = replace(head, figures=figures_kept(record))
        save_head(new / "head.safetensors", head)
        if not keep_folds:
            return
        (new / "folds").mkdir()
        # What one fold holds out of some axes, another fold may hold out of others.
        names = dict.fromkeys(str(name) for run in runs for name in run.material.folds.names)
        for number, name in enumerate(names):
            mine = [
                (run, fold)
                for run in runs
                for fold, held in enumerate(run.material.folds.names)
                if held == name and any(job.fold == fold for job in run.estimate.jobs)
            ]
            if mine:
                members = [(run.material, run.estimate, fold) for run, fold in mine]
                head = head_of(recipe, members, {**config, "held_out": name})
                marks = {n: c for run, k in mine for n, c in run.calibration(k).items()}
                head = calibrated(head, marks)
                save_head(new / "folds" / f"{number}.safetensors", head)


def figures_kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the head file keeps of ``metrics.json``: figures, without single seeds'."""
    axes = {}
    for name, axis in record["axes"].items():
        if "models" not in axis:  # nothing but pairs judges it
            continue
        models = {
            model: {
                **{key: scored[key] for key in ("clips", "systems", "groups", "population")},
                "metrics": {
                    figure: {end: found[end] for end in ("value", "low", "high")}
                    for figure, found in scored["metrics"].items()
                },
            }
            for model, scored in axis["models"].items()
        }
        ceiling = axis["ceiling"] and axis["ceiling"]["figures"]
        head = {"head": next(iter(models)), "models": models}
        axes[name] = {**head, "verdicts": axis["verdicts"], "ceiling": ceiling}
    return {"split": record["split"], "axes": axes}


def _files(runs: Sequence[Run]) -> dict[str, Any]:
    """Return where the clips are on this machine, and whom the heads did not listen to."""
    audio = audio_of(run.material.clips.table for run in runs)
    paths = runs[0].material.sources.paths
    found: dict[str, Any] = {"cache": [str(path) for path in paths], "audio": audio}
    for run in runs:
        material, modeling = run.material, run.material.modeling
        if not modeling.plain:
            folds = material.folds, run.whole.folds
            found.setdefault("raters", {}).update(raters_record(material.clips, *folds, modeling))
    return found


def head_of(recipe: Recipe, members: Sequence[_Members], config: Mapping[str, Any]) -> Head:
    """Put the members of a fold, a seed each, into a head file's record: the axes it trained."""
    material = members[0][0]
    contexts = [part.context(fold) for part, _, fold in members]
    clips = material.sources.clips
    fingerprints = material.sources.first.fingerprints_of(np.arange(len(clips)))
    references, axes, learned = [], [], []
    for part, fitted, fold in members:
        seen = part.folds.train[fold] | part.folds.validation[fold]
        references.append(reference_clips(part.clip_means(fold)[torch.from_numpy(seen)]))
        of_cache = np.zeros(len(clips), np.bool_)
        of_cache[part.clips.rows[seen]] = True
        for target in sorted({job.target for job in fitted.jobs if job.fold == fold}):
            one = _axis_head(part, fitted, target, fold)
            own = references[-1] if len(references) > 1 else None
            axes.append(replace(one, reference=own))
            learned.append(of_cache)
    return Head(
        recipe.head,
        material.row_shape(recipe.head),
        material.feature,
        material.text_feature,
        material.sources.identities,
        tuple(axes),
        references[0],
        dict(config),
        trained_clips(clips, np.stack(learned, 1), fingerprints),
        _whole(contexts),
    )


def _whole(contexts: Sequence[Context | None]) -> Context | None:
    """Return the context of several axes, with the sizes of groups in all of them."""
    known = [one for one in contexts if one is not None]
    if not known:
        return None
    low, high = min(one.low for one in known), max(one.high for one in known)
    return known[0]._replace(low=low, high=high)


def _axis(material: Material, target: int, fold: int) -> Axis:
    """Return an axis with the scale that a fold's heads were trained with: a guess is their own.

    Guessed as in training, from the labels that they learned: a model of the raters may make
    some that no mean of ratings is.
    """
    axis = material.clips.axes[target]
    if not axis.guessed or material.clips.several:  # a test's own: `on_its_tests`
        return axis
    labels = material.learned(target, fold)
    if not np.isfinite(labels).any():
        return axis
    low, high = float(np.nanmin(labels)), float(np.nanmax(labels))
    low, high = guess_scale(low, high if high > low else low + 1)
    return replace(axis, low=low, high=high)


def _axis_head(material: Material, fitted: Fitted, target: int, fold: int) -> AxisHead:
    """Stack the members of one axis that did not diverge."""
    axis = _axis(material, target, fold)
    members = [
        k for k in fitted.of_target(target)
        if fitted.jobs[k].fold == fold and not fitted.diverged[k]
    ]  # fmt: skip
    if not members:
        raise QamroError(f"every head of axis {axis.name} diverged; lower --lr")
    made = axis_head(axis, fitted, members)
    projections = material.projections[material.view(fold)]
    made = replace(made, projections=projections, preference=_preference(fitted, members))
    if not material.clips.several:
        return made
    return on_its_tests(made, material.clips, material.targets(), target, fold)


def _preference(fitted: Fitted, members: Sequence[int]) -> Preference | None:
    """Return what an axis' members learned of pairs; None without."""
    recipe = fitted.jobs[members[0]].recipe
    if not recipe.loss.on_pairs.terms:
        return None
    tau, tie = geometric(fitted.preference[members])
    return None if np.isnan(tau) and not alone(recipe) else Preference(tau, tie, alone(recipe))
