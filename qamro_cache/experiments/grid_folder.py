"""A grid that qamro-ablate trained, read back from its folder: what an ensemble is chosen from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qamro_cache.devices import refuse_device
from qamro_cache.errors import QamroError, words_of
from qamro_cache.experiments.grid import label
from qamro_cache.experiments.options import EnsembleOptions
from qamro_cache.experiments.request import AblateRequest, ablate_request, as_json
from qamro_cache.experiments.store import refuse_other_run
from qamro_cache.experiments.study import STUDIES
from qamro_cache.experiments.unpaired import alone
from qamro_cache.files import replaceable_folder
from qamro_cache.heads.architecture import CLOSED
from qamro_cache.paths import PathLike, as_path
from qamro_cache.settings import from_options
from qamro_cache.training.recipe import flat_recipe


@dataclass(frozen=True)
class EnsembleRequest:
    """An ensemble that can be chosen.

    Attributes:
        grid: what qamro-ablate was asked, with heads inside the folds.
        out: folder of the run.
        options: as given.
        asked: everything that decides what the run comes to, as JSON types.
        given: the options that were given, as JSON types.
    """

    grid: AblateRequest
    out: Path
    options: EnsembleOptions
    asked: dict[str, Any]
    given: dict[str, Any]


def ensemble_request(grid: PathLike, out: PathLike, given: Mapping[str, Any]) -> EnsembleRequest:
    """Check what is asked of `ensemble` against the grid's folder and its caches.

    Args:
        grid: folder of qamro-ablate.
        out: folder of the run.
        given: fields of `EnsembleOptions`.

    Raises:
        QamroError: an option cannot be right, the folder is no grid that an ensemble can be chosen
            from, or ``out`` holds another run.
    """
    options: EnsembleOptions = from_options(EnsembleOptions, given)
    refuse_device(options.device)
    folder, out = as_path(grid, "a grid"), as_path(out, "a folder")
    if out.resolve() == folder.resolve():
        raise QamroError(f"{out} holds the grid; name another folder for the ensemble")
    replaceable_folder(out)
    config = _config(folder)
    # What was asked of the grid, but for where it is trained.
    asked = {name: value for name, value in config["given"].items() if name != "device"}
    asked["nested"] = True
    if not all(cell["recipe"].get("head") in CLOSED for cell in config["cells"]):
        asked["precision"] = config["precision"]
    if options.device:
        asked["device"] = options.device
    if asked.get("onto"):
        raise QamroError(f"{folder} is judged by another test (--onto); name a grid that is not")
    name = asked.pop("grid", "")
    request = ablate_request(config["cache"], folder, name, asked)
    _refuse_others(folder, request, config)
    decides = {n: v for n, v in asdict(options).items() if n not in ("device", "overwrite")}
    sources = request.parts[0].sources
    decides |= {"grid": asked | {"grid": name}, "cache": sources.content_sha256}
    decides = as_json(decides)
    if not options.overwrite:
        refuse_other_run(out, decides)
    kept = as_json({"grid": folder, **given})
    return EnsembleRequest(request, out, options, decides, kept)


def _config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of a grid's folder."""
    if (folder / "metrics.json").exists():
        raise QamroError(f"{folder} is a run, no grid; name a folder of qamro-ablate")
    path = folder / "config.json"
    if not path.is_file():
        raise QamroError(f"{folder} holds no finished grid of qamro-ablate (there is no {path})")
    try:
        config = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        fits = isinstance(config["given"], dict) and isinstance(config["cells"], list)
        fits = fits and all(isinstance(one["recipe"], dict) for one in config["cells"])
        if not fits or not config["cache"] or not isinstance(config["cache"], list):
            raise ValueError("it is none of a grid")
        _ = config["precision"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    return dict(config)


def _refuse_others(folder: Path, request: AblateRequest, config: Mapping[str, Any]) -> None:
    """Refuse cells that are not those that were trained, or that no ensemble can be of."""
    cells = [{**one.names, "recipe": flat_recipe(one.recipe)} for one in request.cells]
    if json.loads(json.dumps(cells)) != config["cells"]:
        raise QamroError(
            f"the cells of {folder} are not those of its --grid any more; run its qamro-ablate "
            "again (in Python: name a grid file or its values, not a Grid)"
        )
    for cell in request.cells:
        if alone(cell.recipe):
            raise QamroError(
                f"{folder}: cell {label(cell.names)} learns from pairs alone and scores in "
                "standard units; an ensemble is of cells in the labels' units"
            )
        for name in STUDIES:
            if getattr(cell, name):
                raise QamroError(
                    f"{folder}: cell {label(cell.names)} sets {name}, which makes a study of it; "
                    "an ensemble is of cells that learn from all there is"
                )
    if any(part.clips.several for part in request.parts):
        raise QamroError(
            f"{folder} learns from several sources, each on a scale of its own, and an ensemble "
            "has one; run qamro-ablate with --only source=NAME"
        )
    ways = list(dict.fromkeys(part.held_out.cv for part in request.parts))
    if len(ways) > 1:
        raise QamroError(
            f"{folder} compares --cv {', '.join(ways)}; an ensemble is chosen by one: run "
            "qamro-ablate with one of them"
        )
