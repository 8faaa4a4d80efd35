"""Scores for new clips from a head file, from a cache or straight from audio."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.cache.reader import CacheLike
from qamro_cache.datasets.records import Axis, Dataset, Labels
from qamro_cache.devices import usable_device
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.scales import STANDARD, scale_name
from qamro_cache.features.sources import Sources
from qamro_cache.files import refuse_same
from qamro_cache.heads.averaged import calibrated
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import AnyHead, axes_of, members_of, standard_axes
from qamro_cache.heads.trained import trained_on
from qamro_cache.paths import PathLike
from qamro_cache.scoring.company import hearing
from qamro_cache.scoring.notices import point_out
from qamro_cache.scoring.options import PredictOptions
from qamro_cache.scoring.request import PredictRequest, predict_request
from qamro_cache.scoring.scale import on_scale_of
from qamro_cache.scoring.scores import Scores, score_clips
from qamro_cache.scoring.table import (
    COLUMNS,
    refuse_answer,
    refuse_standard,
    write_answer_file,
    write_predictions,
)
from qamro_cache.settings import documented

logger = logging.getLogger("qamro_cache")


@documented(PredictOptions)
def predict(
    head: PathLike | AnyHead,
    cache: CacheLike | Sequence[CacheLike] | None = None,
    *,
    clips: Dataset | None = None,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict every axis of a head for every clip; members (seeds, an ensemble's) are averaged.

    Args:
        head: a head file of qamro-train, the folder of a run, or a head already loaded.
        cache: embeddings made by the encoders that the head was trained on, files or open caches;
            or name ``audio`` or ``manifest``, or give ``clips``.
        clips: audio to embed on the fly, as `load_dataset` and `load_manifest` return it.
        progress: passed to `extract`.
        options: those of qamro-predict by their names.

    Returns:
        One row an axis and clip: clip_id, system, group, axis, seed ("mean"), fold (empty),
        prediction (in the axis' units, NaN for a clip that has none), target (NaN where not
        known), scale (the axis' range as "low..high", and " (guessed)" where nobody named it), std
        (standard deviation over the members; of an ensemble by their shares), ood (out of
        distribution: farther from the training set than 99 % of it; of an ensemble's heads, to
        one), trained_on (``yes``: a member learned the clip's label on the axis
        or stopped on it, as the audio's hashes tell; ``near``: that of a clip that sounds like it;
        ``no``; empty where the head or the cache does not have the hashes), company (of a head that
        compares: how many others each clip was heard beside, and what the head learned from where
        that is another number) and reason (why there
        is no prediction).

    Raises:
        QamroError: the head or cache is not usable, or the cache was made by another encoder.
    """
    return run_predict(predict_request(head, cache, clips, options), progress)


def run_predict(
    request: PredictRequest, progress: Callable[..., None] | None = None
) -> pd.DataFrame:
    """Do what was asked; see `predict`."""
    options = request.options
    head = on_scale_of(load_head(request.head), options.source)
    device = usable_device(options.device)
    if options.answer is not None:
        axes = [axis.name for axis in axes_of(head)]
        refuse_standard(options.answer, standard_axes(head))
        refuse_answer(options.answer, axes, request.clip_ids, request.listed)
    with (
        nullcontext(request.sources)
        if request.clips is None
        else _embedded(head, request, device, progress) as sources
    ):
        assert sources is not None
        beside = request.company
        scores = score_clips(head, sources, device, beside, strict=options.strict)
        table = scores_table(head, scores, beside)
        if options.out is not None:
            write_predictions(table, options.out)
        if options.answer is not None:
            # The table is worth keeping, whatever name the answer was given by mistake.
            refuse_same(options.out, options.answer)
            write_answer_file(table, options.answer, request.listed)
    return table


@contextmanager
def _embedded(
    head: AnyHead, request: PredictRequest, device: str, progress: Callable[..., None] | None
) -> Iterator[Sources]:
    """Give the embeddings of a request's audio, which are gone when the block is left well."""
    from qamro_cache.scoring.embed import embed, embeddings_files

    options = request.options
    assert request.clips is not None
    if any(one.text_feature for one in members_of(head)) and options.audio is not None:
        raise QamroError(
            "this head takes the prompt too, which a folder of audio does not have; "
            "give --manifest clips.csv with the columns clip_id, path and prompt"
        )
    # Before anything is embedded: without groups there is nothing to compare.
    table = request.clips.clips.assign(status="ok")
    asked = ~table["clip_id"].isin(request.company).to_numpy()
    for one in members_of(head):
        hearing(one, table, asked, request.clips.name)
    source = options.audio or options.manifest or request.clips.name
    if request.source == "stdin":  # another list has other embeddings
        listed = "\n".join(request.clip_ids).encode("utf-8", "surrogateescape")
        source = f"stdin {hashlib.sha256(listed).hexdigest()}"
    with embeddings_files(options.out, head, source) as files:
        yield embed(head, request.clips, files, options, device=device, progress=progress)


def scores_table(head: AnyHead, scores: Scores, beside: Collection[str] = ()) -> pd.DataFrame:
    """Return what a head says of clips as the table of `predict`, less those that are company."""
    sources = scores.sources
    clips = sources.clips
    fingerprints = sources.first.fingerprints_of(np.arange(len(clips)))
    axes = axes_of(head)
    learned = trained_on(head.trained, len(axes), clips, fingerprints)
    table = pd.concat(
        [_table(head, scores, row, axis, learned[row]) for row, axis in enumerate(axes)],
        ignore_index=True,
    )
    table = table[~table["clip_id"].isin(list(beside))].reset_index(drop=True)
    point_out(table)
    return table


def _table(
    head: AnyHead, found: Scores, row: int, axis: Axis, known: npt.NDArray[np.object_]
) -> pd.DataFrame:
    """Return the rows of one axis."""
    standard = axis.name in standard_axes(head)
    axis, mean, std = calibrated(head, axis, found.members[row], found.shares[row])
    if not standard and (off := axis.notice_outside(mean)):
        logger.warning(off)
    clips = found.sources.clips
    return pd.DataFrame(
        {
            "clip_id": clips["clip_id"],
            "system": clips["system"],
            "group": clips["group"],
            "axis": axis.name,
            "seed": "mean",
            "fold": "",
            "prediction": mean,
            "target": _targets(found.sources.labels, axis.name),
            "scale": STANDARD if standard else scale_name(axis),
            "std": std,
            "ood": found.ood[row],
            "trained_on": known,
            "company": found.told,
            "reason": found.reasons,
        },
        columns=list(COLUMNS),
    )


def _targets(labels: Labels, axis: str) -> Any:
    names = [one.name for one in labels.axes]
    return labels.mean[:, names.index(axis)] if axis in names else np.nan
