"""A head brought to a scale of one's own, by the labels of a few clips."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.axes import notice_guessed, with_scales
from qamro_cache.datasets.ids import match_ids
from qamro_cache.datasets.labels import load_rated
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.options import parse_scales
from qamro_cache.datasets.records import Dataset, Labels, select_axes, select_labels
from qamro_cache.devices import refuse_device
from qamro_cache.encoders.protocol import WeightsOptions
from qamro_cache.errors import OptionError, QamroError, few
from qamro_cache.files import refuse_other
from qamro_cache.heads.calibration import NotCalibratedError, fit_calibration
from qamro_cache.heads.names import comes_along, head_path
from qamro_cache.heads.trained import KNOWN
from qamro_cache.paths import PathLike, as_path
from qamro_cache.scoring.folder import clips_of_folder
from qamro_cache.scoring.options import CalibrateOptions
from qamro_cache.settings import documented, from_options

if TYPE_CHECKING:
    from qamro_cache.heads.head import AnyHead

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class CalibrateRequest:
    """A calibration that can begin.

    Attributes:
        head: the file.
        out: the file to write.
        cache: embeddings of the clips; None where ``clips`` are to be embedded.
        clips: audio to embed, or None.
        clip_ids: [C] of the labels.
        labels: of these clips.
        source: of the labels, for messages.
        options: as given.
    """

    head: Path
    out: Path
    cache: "CacheLike | Sequence[CacheLike] | None"
    clips: Dataset | None
    clip_ids: list[str]
    labels: Labels
    source: Path
    options: CalibrateOptions


def calibrate_request(
    head: PathLike,
    labels: PathLike,
    cache: "CacheLike | Sequence[CacheLike] | None",
    given: Mapping[str, Any],
) -> CalibrateRequest:
    """Check what is asked of `calibrate`, before torch is loaded.

    Args:
        head: a head file, the folder of a run, or a name of `list_heads`.
        labels: a table of clips and their scores: with a cache or a folder of audio of ``clip_id``,
            else a manifest.
        cache: embeddings of the clips, or None.
        given: fields of `CalibrateOptions`.

    Raises:
        QamroError: an option cannot be right, or a file cannot be used.
    """
    options: CalibrateOptions = from_options(CalibrateOptions, given)
    refuse_device(options.device)
    if cache is not None and options.audio is not None:
        raise OptionError("name the clips by --cache or by --audio, not by both")
    named, head, source = head, head_path(head), as_path(labels, "a label file")
    if options.out is None and comes_along(head):
        raise OptionError(f"{named} comes with the package and stays as it is; give --out FILE")
    out = options.out or head
    refuse_other(out, "head file", _is_head)
    if cache is not None or options.audio is not None:
        table, rated = load_rated(source, options.columns)
        ids = table["clip_id"].tolist()
        rated = with_scales(rated, parse_scales(options.scale), ids)
        clips = None if options.audio is None else _labeled(options.audio, ids, source)
    else:
        clips = load_manifest(source, columns=options.columns, scale=options.scale)
        ids, rated = clips.clips["clip_id"].tolist(), clips.labels
    rated = select_axes(rated, options.axis)
    return CalibrateRequest(head, out, cache, clips, ids, rated, source, options)


def _labeled(audio: Path, ids: Sequence[str], source: Path) -> Dataset:
    """Return the clips of a folder that have a label."""
    found = clips_of_folder(audio)
    mine = match_ids(ids, found.clips["clip_id"].tolist()) >= 0
    if not mine.any():
        raise QamroError(
            f"{source}: none of its clips ({ids[0]!r} for one) is in {audio}, where names are like "
            f"{found.clips['clip_id'].iloc[0]!r}; say which column has them with --columns "
            "clip_id=COLUMN"
        )
    clips = found.clips[mine].reset_index(drop=True)
    return replace(found, clips=clips, labels=select_labels(found.labels, np.flatnonzero(mine)))


@documented(CalibrateOptions)
def calibrate(
    head: PathLike,
    labels: PathLike,
    cache: "CacheLike | Sequence[CacheLike] | None" = None,
    *,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Bring a head's scores to the scale of a few labeled clips; the head file keeps how.

    A line, label = offset + slope * score, is fitted by least squares, and of many clips a function
    that never falls (`heads.calibration`). Clips that the head was trained on, or that sound like
    one, do not count. What the members say stays in the file: a calibration replaces an older one.

    Args:
        head: a head file of qamro-train or qamro-ensemble, the folder of a run, or a name of
            `list_heads`.
        labels: a table of clips and their scores, a column an axis of the head's.
        cache: embeddings of the clips, by the head's encoders; None: their audio is embedded, of a
            folder (``audio``), or where the table, a manifest, says.
        progress: passed to `extract`.
        options: those of qamro-calibrate by their names.

    Returns:
        For each axis what is kept (`Calibration.record`), and on these clips the root of the mean
        squared error ``before`` and, each clip left out of its line, ``after``. JSON types.

    Raises:
        QamroError: the labels are too few or say too little, or a file cannot be used.
    """
    return run_calibrate(calibrate_request(head, labels, cache, options), progress)


def run_calibrate(
    request: CalibrateRequest, progress: Callable[..., None] | None = None
) -> dict[str, Any]:
    """Do what was asked; see `calibrate`."""
    from qamro_cache.heads.file import load_head, save_head
    from qamro_cache.heads.head import axes_of
    from qamro_cache.scoring.predict import predict

    head, labels = load_head(request.head), request.labels
    theirs = [axis.name for axis in axes_of(head)]
    axes = [axis for axis in labels.axes if axis.name in theirs]
    if not axes:
        raise QamroError(
            f"{request.source} rates {', '.join(axis.name for axis in labels.axes)}, the head "
            f"predicts {', '.join(theirs)}; say which column is which with --columns "
            f"{theirs[0]}=COLUMN"
        )
    notice_guessed(axes)
    bare: AnyHead = replace(head, calibration=None)
    weights = {one.name: getattr(request.options, one.name) for one in fields(WeightsOptions)}
    more: dict[str, Any] = {"device": request.options.device, "progress": progress}
    if request.clips is not None:
        more |= {"clips": request.clips, **weights}
    table = predict(bare, request.cache, **more)
    kept, told = dict(head.calibration or {}), {}
    for axis in axes:
        part = table[(table["axis"] == axis.name) & table["prediction"].notna()]
        known = part["trained_on"].isin(KNOWN)
        at = match_ids(request.clip_ids, part["clip_id"].tolist())
        if len(part) and not (at >= 0).any():
            raise QamroError(
                f"{request.source}: {axis.name}: no clip that has a score is called as there "
                f"({few(request.clip_ids, 2)}); scores are of {few(part['clip_id'].tolist(), 2)}"
            )
        if left := int((known & (at >= 0)).sum()):
            logger.warning(
                "%s: the head was trained on %d of the labeled clips, or on clips alike; they do "
                "not count",
                axis.name,
                left,
            )
        used = (at >= 0) & ~known.to_numpy()
        unknown = np.isfinite(labels.mean[:, labels.axis_index(axis.name)])
        unknown[at[at >= 0]] = False
        if lost := np.array(request.clip_ids)[unknown].tolist():
            logger.warning(
                "%s: %d labeled clips have no score and do not count: %s", axis.name, len(lost),
                few(lost, 3),
            )  # fmt: skip
        scores = part["prediction"].to_numpy(np.float64)[used]
        truth = labels.mean[at[used], labels.axis_index(axis.name)]
        try:
            found = fit_calibration(scores, truth, axis)
        except NotCalibratedError as error:
            beside = f" (beside {left} that the head was trained on)" * bool(left)
            raise QamroError(f"{request.source}: {axis.name}: {error}{beside}") from error
        kept[axis.name] = found.record()
        told[axis.name] = {**found.record(), **_errors(scores, truth)}
    save_head(request.out, replace(head, calibration=kept))
    return told


def _errors(scores: Any, truth: Any) -> dict[str, float]:
    """Return the root mean squared error as scores come, and of each clip by the others' line."""
    known = np.isfinite(scores) & np.isfinite(truth)
    x, y = scores[known], truth[known]
    apart = x - x.mean()
    slope = (apart * y).sum() / (apart**2).sum()
    left = y - y.mean() - slope * apart
    left = left / (1 - 1 / len(x) - apart**2 / (apart**2).sum())
    before, after = (float(np.sqrt((error**2).mean())) for error in (y - x, left))
    return {"before": before, "after": after}


def _is_head(path: Path) -> bool:
    from qamro_cache.heads.header import read_header

    with path.open("rb") as file:
        return read_header(file).metadata.get("format") in ("qamro-head", "qamro-ensemble")
