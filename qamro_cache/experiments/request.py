"""What is asked of `train` and `ablate`, checked once, before torch is loaded.

Torch takes seconds to load: a mistake is answered at once. Nothing here reads features.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.modeled import refuse_raters
from qamro_cache.datasets.selection import is_reference
from qamro_cache.devices import refuse_device
from qamro_cache.encoders.support import missing_packages
from qamro_cache.errors import OptionError, QamroError, nearest, quoted
from qamro_cache.experiments.clips import AxisGroup, Clips, choose_clips, hold_out
from qamro_cache.experiments.grid import (
    CELL,
    Cell,
    Grid,
    cells_of,
    find_grid,
    listed,
    override,
    with_huber_alone,
)
from qamro_cache.experiments.onto import Onto, open_onto
from qamro_cache.experiments.options import AblateOptions, TrainOptions
from qamro_cache.experiments.parts import Part, parts_of_grid
from qamro_cache.experiments.precision import decided
from qamro_cache.experiments.readings import one_reading, with_layers
from qamro_cache.experiments.several import refuse_in_several, refuse_lines
from qamro_cache.experiments.store import refuse_other_run
from qamro_cache.experiments.unpaired import refuse_unfit, refuse_without_pairs
from qamro_cache.features.expression import Expression
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.files import replaceable_folder
from qamro_cache.losses.terms import PARAMETERS
from qamro_cache.memory import refuse_disk
from qamro_cache.paths import PathLike, as_path
from qamro_cache.settings import from_options, settings_of
from qamro_cache.spread import RayOptions
from qamro_cache.training.recipe import RECIPE, Recipe, at_once, checked_recipe

logger = logging.getLogger("qamro_cache")

#: Bytes of a row of a table, about.
_ROW = 100


@dataclass(frozen=True)
class TrainRequest:
    """A run of `train` that can begin.

    Attributes:
        sources: the caches that are read.
        expression: what is read of them.
        out: folder of the run.
        options: as given.
        recipe: of every head.
        groups: the axes, by the clips that are rated on them.
        asked: everything that decides what the run comes to, as JSON types.
        given: the options that were given, as JSON types.
    """

    sources: Sources
    expression: Expression
    out: Path
    options: TrainOptions
    recipe: Recipe
    groups: list[AxisGroup]
    asked: dict[str, Any]
    given: dict[str, Any]


@dataclass(frozen=True)
class AblateRequest:
    """A grid that can begin.

    Attributes:
        out: folder of the tables.
        options: as given, else as the grid suggests.
        cells: of the grid.
        parts: what is trained on the same features and folds.
        given: the options that were given, as JSON types.
        onto: another test that judges, or None.
        caches: the files that were given.
    """

    out: Path
    options: AblateOptions
    cells: list[Cell]
    parts: list[Part]
    given: dict[str, Any]
    onto: Onto | None = None
    caches: Sequence[str] = ()

    @property
    def compares_encoders(self) -> bool:
        """Whether parts are read of different encoders, which the tables then name."""
        return len({part.sources.identity_sha256 for part in self.parts}) > 1


def train_request(
    cache: CacheLike | Sequence[CacheLike], out: PathLike, given: Mapping[str, Any]
) -> TrainRequest:
    """Check what is asked of `train` against the cache's tables and the folder.

    Args:
        cache: files, or open caches: of several encoders, they are joined by clip.
        out: folder of the run.
        given: fields of `TrainOptions` and settings of `RECIPE`.

    Raises:
        QamroError: an option cannot be right, or ``out`` holds another run.
    """
    mine, recipe_given = _split(given, TrainOptions, RECIPE)
    options: TrainOptions = from_options(TrainOptions, mine)
    recipe = checked_recipe(recipe_given)
    _tell_missing(options.baselines)
    _refuse_without_sklearn([recipe])
    if recipe.head.closed:
        _refuse_training(mine, ("seeds", "stop", "precision", "init"), recipe.head.kind)
        # One solution a fold, by all clips that it may learn from.
        options = replace(options, seeds=1, stop="fixed")
    out = as_path(out, "a folder")
    replaceable_folder(out)
    refuse_device(options.device)
    read = options.feature, options.context, recipe.head
    sources, expression = one_reading(join_caches(cache), *read)
    if recipe.head.takes_prompts:
        sources.text_source(options.text_feature)
    labels = _file_sha256(options.labels)
    refuse_without_pairs(recipe, options.pairs, calibrate=options.calibrate)
    clips = choose_clips(sources, options, text=recipe.head.takes_prompts)
    _refuse_labels(clips, recipe, options)
    groups = hold_out(sources, clips, options.cv, options)
    refuse_lines(options.calibrate, groups[0].held_out.cv)
    for rated, held_out in groups:
        refuse_unfit(recipe, rated, held_out.folds)
    # Late, because to know the device takes torch.
    options = decided(options, out, anew=options.overwrite)
    # The loss's parameters stand in its text.
    beside = ("device", "overwrite", *PARAMETERS)
    decides = {n: v for n, v in {**asdict(options), **recipe_given}.items() if n not in beside}
    asked = {
        **decides,
        "loss": recipe.loss.text(whole=True) if recipe.takes("loss") else "",
        "cache": sources.content_sha256,
        "encoder": sources.identity_sha256,
        "labels": labels,
        "pairs": _file_sha256(options.pairs),
        "init": str(options.init or ""),
    }
    asked = json.loads(json.dumps(asked))
    if not options.overwrite:
        refuse_other_run(out, asked)
    refuse_disk(_ROW * options.seeds * len(clips.axes) * len(clips.rows), out)
    return TrainRequest(sources, expression, out, options, recipe, groups, asked, as_json(given))


def _refuse_labels(clips: Clips, recipe: Recipe, options: TrainOptions) -> None:
    """Refuse what cannot be made of the clips' ratings."""
    if clips.several:
        names = [name for name in ("init", "pairs") if getattr(options, name)]
        refuse_in_several(recipe, names)
    named = is_reference(clips.table), options.modeling, clips.table["source"].tolist()
    refuse_raters(clips.labels, *named)


def ablate_request(
    caches: CacheLike | Sequence[CacheLike],
    out: PathLike,
    grid: PathLike | Grid,
    given: Mapping[str, Any],
) -> AblateRequest:
    """Check what is asked of `ablate` as `train_request` does.

    Args:
        caches: files or open caches; those of one identity are parts of one.
        out: folder of the tables.
        grid: the cells: a name of a grid that comes along, a TOML file, or a `Grid`.
        given: fields of `AblateOptions`, which replace the grid's own, and settings of a cell,
            each a value or a list of values.
    """
    mine, cells_given = _split(given, AblateOptions, CELL)
    cells_given = {name: listed(CELL[name], value) for name, value in cells_given.items()}
    found = (
        grid if isinstance(grid, Grid) else find_grid(str(as_path(grid, "a grid")) if grid else "")
    )
    options: AblateOptions = from_options(AblateOptions, {**found.run, **mine})
    if options.pairs is not None and options.onto is not None:
        raise OptionError("--pairs does not go with --onto, whose heads learn from ratings")
    try:
        cells = cells_of(override(found, cells_given))
        if options.baselines == "all":
            cells = with_huber_alone(cells)
    except QamroError as error:
        # A grid file has been checked by itself: what does not fit now was given here.
        raise OptionError(str(error)) from error
    _tell_missing(options.baselines)
    _refuse_without_sklearn([cell.recipe for cell in cells])
    if all(cell.recipe.head.closed for cell in cells):
        _refuse_training(mine, ("seeds", "stop", "precision"), cells[0].recipe.head.kind)
        options = replace(options, stop="fixed")
    out = as_path(out, "a folder")
    replaceable_folder(out)
    refuse_device(options.device)
    if (out / "head.safetensors").exists():
        raise QamroError(f"{out} holds a run of qamro-train; name another folder for the grid")
    sources = join_caches(caches)
    cells = with_layers(cells, sources)
    onto = open_onto(options, cells, sources.caches)
    for cell in cells:
        refuse_without_pairs(cell.recipe, options.pairs)
    parts = parts_of_grid(sources, cells, options, onto)
    for part in parts:
        for place in part.cells:
            refuse_unfit(cells[place].recipe, part.clips, part.held_out.folds)
    _refuse_disk(out / "done", parts, options.seeds)
    options = decided(options, out, anew=False)
    named = {} if isinstance(grid, Grid) or not grid else {"grid": str(grid)}
    # Whoever trains a part of it, the grid is the same.
    grid_given = {
        name: mine[name] for name in mine if name not in ("shard", *settings_of(RayOptions))
    }
    given_here = as_json({**named, **grid_given, **cells_given})
    files = [str(path) for path in sources.paths]
    return AblateRequest(out, options, cells, parts, given_here, onto, files)


def _tell_missing(baselines: str) -> None:
    """Say which baseline is left out because its package is not installed."""
    if baselines == "all":
        for line in missing_packages(["sklearn"], "svr"):
            logger.warning("--baselines all without SVR: %s", line)


def _refuse_training(given: Mapping[str, Any], names: Sequence[str], kind: str) -> None:
    """Refuse options that do nothing where every head is fitted at once, the first of a kind."""
    for name in names:
        if name in given:
            raise OptionError(f"a {at_once(kind)} and takes no {name}")


def _refuse_without_sklearn(recipes: Sequence[Recipe]) -> None:
    if any(recipe.head.kind == "svr" for recipe in recipes):
        for line in missing_packages(["sklearn"], "svr"):
            raise QamroError(f"--head svr: {line}")


def _refuse_disk(done: Path, parts: Sequence[Part], seeds: int) -> None:
    """Refuse tables and kept predictions (a float32 a head and clip) that would not fit."""
    kept = rows = 0
    for part in parts:
        figures = len(part.cells) * seeds * len(part.clips.axes)
        rows += figures
        kept += 4 * figures * len(part.held_out.folds.train) * len(part.clips.rows)
    there = sum(path.stat().st_size for path in done.glob("*.safetensors"))
    refuse_disk(_ROW * rows + max(0, kept - there), done)


def as_json(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as ``config.json`` keeps them: paths as text, without what is None."""
    known = {name: value for name, value in given.items() if value is not None}
    kept: dict[str, Any] = json.loads(json.dumps(known, default=str))
    return kept


def _split(
    given: Mapping[str, Any], options: type, others: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what was given (None is not) into fields of ``options`` and names of ``others``."""
    known = {name: value for name, value in given.items() if value is not None}
    mine = {name: value for name, value in known.items() if name in settings_of(options)}
    rest = {name: value for name, value in known.items() if name not in mine}
    for name in rest:
        if name not in others:
            names = (*settings_of(options), *others)
            raise OptionError(f"there is no option {quoted(name)}{nearest(name, names)}")
    return mine, rest


def _file_sha256(path: Path | None) -> str:
    if path is None:
        return ""
    if not path.is_file():
        raise QamroError(f"there is no label file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
