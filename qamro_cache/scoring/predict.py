"""Scores for new clips from a head file, from a cache or straight from audio."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.cache.reader import Cache, CacheLike
from qamro_cache.datasets.records import Dataset, Labels
from qamro_cache.devices import usable_device
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.scales import STANDARD, scale_name
from qamro_cache.features.pooling import mean_rows, take_clips
from qamro_cache.features.sources import Sources, join_caches
from qamro_cache.files import refuse_same
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.network import forward
from qamro_cache.heads.trained import trained_on
from qamro_cache.paths import PathLike
from qamro_cache.scoring.company import company_words, hearing, lacks_reference
from qamro_cache.scoring.notices import point_out
from qamro_cache.scoring.options import PredictOptions
from qamro_cache.scoring.request import PredictRequest, predict_request
from qamro_cache.scoring.seen import head_sources, prompts, seen
from qamro_cache.scoring.table import (
    COLUMNS,
    refuse_answer,
    refuse_standard,
    write_answer_file,
    write_predictions,
)
from qamro_cache.settings import documented

logger = logging.getLogger("qamro_cache")

#: Windows scored at once: bounds the memory for hidden layers, whatever the cache's size.
_WINDOWS = 8192

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@documented(PredictOptions)
def predict(
    head: PathLike | Head,
    cache: CacheLike | Sequence[CacheLike] | None = None,
    *,
    clips: Dataset | None = None,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict every axis of a head for every clip; members (seeds) are averaged.

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
        (standard deviation over the members), ood (out of distribution: farther from the training
        set than 99 % of it), trained_on (``yes``: a member learned the clip's label on the axis
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
    head = load_head(request.head)
    device = usable_device(options.device)
    if options.answer is not None:
        axes = [one.axis.name for one in head.axes]
        refuse_standard(options.answer, [one.axis.name for one in head.axes if one.standard])
        refuse_answer(options.answer, axes, request.clip_ids, request.listed)
    with (
        nullcontext(request.sources)
        if request.clips is None
        else _embedded(head, request, device, progress) as sources
    ):
        assert sources is not None
        table = predict_cache(head, sources, device, request.company, strict=options.strict)
        if options.out is not None:
            write_predictions(table, options.out)
        if options.answer is not None:
            # The table is worth keeping, whatever name the answer was given by mistake.
            refuse_same(options.out, options.answer)
            write_answer_file(table, options.answer, request.listed)
    return table


@contextmanager
def _embedded(
    head: Head, request: PredictRequest, device: str, progress: Callable[..., None] | None
) -> Iterator[Sources]:
    """Give the embeddings of a request's audio, which are gone when the block is left well."""
    from qamro_cache.scoring.embed import embed, embeddings_files

    options = request.options
    assert request.clips is not None
    if head.text_feature and options.audio is not None:
        raise QamroError(
            "this head takes the prompt too, which a folder of audio does not have; "
            "give --manifest clips.csv with the columns clip_id, path and prompt"
        )
    # Before anything is embedded: without groups there is nothing to compare.
    table = request.clips.clips.assign(status="ok")
    hearing(head, table, ~table["clip_id"].isin(request.company).to_numpy(), request.clips.name)
    source = options.audio or options.manifest or request.clips.name
    if request.source == "stdin":  # another list has other embeddings
        listed = "\n".join(request.clip_ids).encode("utf-8", "surrogateescape")
        source = f"stdin {hashlib.sha256(listed).hexdigest()}"
    with embeddings_files(options.out, head, source) as files:
        yield embed(head, request.clips, files, options, device=device, progress=progress)


def predict_cache(
    head: Head,
    cache: Cache | Sources,
    device: str = "cpu",
    beside: Collection[str] = (),
    *,
    strict: bool = False,
) -> pd.DataFrame:
    """Predict the clips of an open cache, or of several that are joined; see `predict`.

    Args:
        head: loaded.
        cache: open.
        device: where to.
        beside: ids of clips that are but company.
        strict: refuse clips without such company as the head learned from.
    """
    joined = cache if isinstance(cache, Sources) else join_caches(cache)
    sources = head_sources(head, joined)
    clips = sources.clips
    text, missing = prompts(head, sources, device)
    missing[(missing == "") & lacks_reference(head, clips)] = "its reference has no features"
    scored = (clips["status"] == "ok").to_numpy() & (missing == "")
    failed = clips["reason"].to_numpy(str)
    known = np.where((missing != "") & (failed == ""), missing, failed)
    reasons = np.where(scored, "", known)
    members = [np.full((len(one.seeds), len(clips)), np.nan) for one in head.axes]
    ood = np.zeros((len(head.axes), len(clips)), bool)
    asked = scored & ~clips["clip_id"].isin(list(beside)).to_numpy()
    company = hearing(head, clips, asked, str(sources.first.paths[0]))
    told = company_words(head, company, clips, asked, strict=strict)
    for view, axes in seen(head, sources, company, device):
        windows, offsets, weights = view
        for block in _blocks(offsets.diff().cpu().numpy(), np.flatnonzero(asked)):
            taken = take_clips(offsets, torch.as_tensor(block, device=offsets.device))
            w, share = windows[taken.windows].float(), weights[taken.windows]
            prompt = None if text is None else text[torch.as_tensor(block, device=text.device)]
            means = mean_rows(w.flatten(1), taken.clip, share, len(block))
            far = head.reference.is_ood(means).cpu().numpy()
            for row in axes:
                one = head.axes[row]
                members[row][:, block] = member_scores(head, one, w, taken.offsets, share, prompt)
                own = one.reference
                ood[row, block] = far if own is None else own.is_ood(means).cpu().numpy()
    fingerprints = sources.first.fingerprints_of(np.arange(len(clips)))
    learned = trained_on(head.trained, len(head.axes), clips, fingerprints)
    parts = zip(head.axes, members, ood, learned, strict=True)
    table = pd.concat(
        [
            _table(sources, one, scores, far, known, told, reasons)
            for one, scores, far, known in parts
        ],
        ignore_index=True,
    )
    table = table[~table["clip_id"].isin(list(beside))].reset_index(drop=True)
    point_out(table)
    return table


def member_scores(
    head: Head,
    one: AxisHead,
    windows: Tensor,
    offsets: Tensor,
    weights: Tensor,
    text: Tensor | None,
) -> Floats:
    """Return the scores [M, C] of an axis' members in its units."""
    device = windows.device
    out = forward(
        head.architecture,
        {name: value.to(device) for name, value in one.params.items()},
        windows,
        offsets,
        weights,
        text=text,
        mean=None if one.row_mean is None else one.row_mean.to(device),
        std=None if one.row_std is None else one.row_std.to(device),
        bounds=one.bounds.to(device),
    )
    scores: Floats = (one.label_mean + one.label_std * out.double()).cpu().numpy()
    return scores


def _table(
    sources: Sources,
    one: AxisHead,
    scores: Floats,
    ood: npt.NDArray[np.bool_],
    known: npt.NDArray[np.object_],
    told: npt.NDArray[np.object_],
    reasons: Any,
) -> pd.DataFrame:
    """Return the rows of one axis."""
    if not one.standard and (off := one.axis.notice_outside(scores.mean(0))):
        logger.warning(off)
    clips = sources.clips
    return pd.DataFrame(
        {
            "clip_id": clips["clip_id"],
            "system": clips["system"],
            "group": clips["group"],
            "axis": one.axis.name,
            "seed": "mean",
            "fold": "",
            "prediction": scores.mean(0),
            "target": _targets(sources.labels, one.axis.name),
            "scale": STANDARD if one.standard else scale_name(one.axis),
            "std": scores.std(0, ddof=1) if len(scores) > 1 else np.nan,
            "ood": ood,
            "trained_on": known,
            "company": told,
            "reason": reasons,
        },
        columns=list(COLUMNS),
    )


def _blocks(counts: Ints, rows: Ints) -> list[Ints]:
    """Cut clips into blocks of about _WINDOWS windows."""
    if len(rows) == 0:
        return []
    block = np.cumsum(counts[rows]) // _WINDOWS
    return np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _targets(labels: Labels, axis: str) -> Any:
    names = [one.name for one in labels.axes]
    return labels.mean[:, names.index(axis)] if axis in names else np.nan
