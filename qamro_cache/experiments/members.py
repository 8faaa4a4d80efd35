"""The members of an ensemble trained on all clips, as one head."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qamro_cache.errors import QamroError
from qamro_cache.experiments.data import Material
from qamro_cache.experiments.ensemble_folder import Candidate
from qamro_cache.experiments.fitting import Fitted, fit_all, refit_recipe
from qamro_cache.experiments.folds import refit_clips
from qamro_cache.experiments.grid import label
from qamro_cache.experiments.plan import seeds_of
from qamro_cache.experiments.request import AblateRequest
from qamro_cache.experiments.saved import head_of
from qamro_cache.heads.head import Ensemble, Head
from qamro_cache.heads.trained import trained_clips
from qamro_cache.training.recipe import Job, flat_recipe
from qamro_cache.training.schedule import steps_per_epoch


def refitted(
    grid: AblateRequest,
    materials: Sequence[Material],
    choices: Sequence[Candidate],
    config: Mapping[str, Any],
    device: str,
) -> Ensemble:
    """Train the chosen cells on all clips (of a fixed split, its training clips), all seeds.

    Args:
        grid: whose cells they are.
        materials: of its parts.
        choices: of all axes, each with its ``times``.
        config: what the head file says of its training.
        device: where to train.

    Raises:
        QamroError: a head diverged.
    """
    whole = {place: _whole(grid, materials[place], place) for place in {c.part for c in choices}}
    # Parts of one reading differ in the axes alone: their heads are one.
    members: dict[tuple[str, str, str, bool, int], list[Candidate]] = {}
    for one in choices:
        part = grid.parts[one.part]
        read = part.sources.identity_sha256, str(part.expression), part.context, part.text
        members.setdefault((*read, one.cell), []).append(one)
    heads, times = [], []
    for mine in members.values():
        head = _member(grid, materials, whole, mine, device)
        heads.append(head)
        count = {whole[one.part].clips.axes[one.axis].name: one.times for one in mine}
        times.append(tuple(count[one.axis.name] for one in head.axes))
    axes = {one.axis.name: one.axis for head in heads for one in head.axes}
    order = [name for name in config["axes"] if name in axes]
    clips = materials[0].sources.clips
    learned = np.zeros((len(clips), len(order)), np.bool_)
    for place, material in whole.items():
        for axis in {one.axis for one in choices if one.part == place}:
            name = material.clips.axes[axis].name
            learned[material.clips.rows[material.folds.train[0]], order.index(name)] = True
    prints = materials[0].sources.first.fingerprints_of(np.arange(len(clips)))
    noted = trained_clips(clips, learned, prints)
    return Ensemble(
        tuple(heads), tuple(times), tuple(axes[name] for name in order), dict(config), noted
    )


def _whole(grid: AblateRequest, material: Material, place: int) -> Material:
    held_out = grid.parts[place].held_out
    everything = held_out.cv != "split"
    folds = refit_clips(held_out.folds, material.clips.known, everything=everything)
    return material.bound(folds)


def _member(
    grid: AblateRequest,
    materials: Sequence[Material],
    whole: Mapping[int, Material],
    mine: Sequence[Candidate],
    device: str,
) -> Head:
    """Train one cell for the axes that it was chosen for."""
    cell = grid.cells[mine[0].cell]
    fitted: list[tuple[Material, Fitted, int]] = []
    epochs = {}
    for place in dict.fromkeys(one.part for one in mine):
        material = replace(whole[place], modeling=cell.modeling)
        targets, jobs = material.targets(), []
        for one in (one for one in mine if one.part == place):
            after = steps_per_epoch(material.folds, targets, cell.recipe, one.axis)
            recipe = refit_recipe(cell.recipe, one.steps, int(after[0]))
            epochs[material.clips.axes[one.axis].name] = recipe.epochs
            seeds = range(seeds_of(cell, grid.options.seeds))
            jobs += [Job(recipe, seed, 0, one.axis) for seed in seeds]
        found = fit_all(material, jobs, {}, device, grid.options.precision, None)
        if found.diverged.any():
            raise QamroError(
                f"{int(found.diverged.sum())} of {len(jobs)} heads of {label(cell.names)} to be "
                "saved diverged; lower its lr"
            )
        fitted.append((material, found, 0))
    about: dict[str, Any] = {"cell": dict(cell.names), "recipe": flat_recipe(cell.recipe)}
    if not cell.recipe.head.closed:
        about["refit_epochs"] = epochs
    return replace(head_of(cell.recipe, fitted, about), trained=None)
