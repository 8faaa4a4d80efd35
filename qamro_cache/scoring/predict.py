"""Scores for new clips from a head file, from a cache or straight from audio."""

import logging
from collections.abc import Callable, Iterator, Mapping
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
from qamro_cache.evaluation.scales import scale_name
from qamro_cache.files import refuse_same
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.network import forward
from qamro_cache.heads.pooling import mean_rows, take_clips
from qamro_cache.heads.trained import trained_on
from qamro_cache.identity import identity_differences
from qamro_cache.paths import PathLike
from qamro_cache.scoring.notices import point_out
from qamro_cache.scoring.options import PredictOptions
from qamro_cache.scoring.request import PredictRequest, predict_request
from qamro_cache.scoring.table import COLUMNS, refuse_answer, write_answer_file, write_predictions
from qamro_cache.settings import documented

logger = logging.getLogger("qamro_cache")

#: Windows scored at once: bounds the memory for hidden layers, whatever the cache's size.
_WINDOWS = 8192

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@documented(PredictOptions)
def predict(
    head: PathLike | Head,
    cache: CacheLike | None = None,
    *,
    clips: Dataset | None = None,
    progress: Callable[..., None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict every axis of a head for every clip; members (seeds) are averaged.

    Args:
        head: a head file of qamro-train, the folder of a run, or a head already loaded.
        cache: embeddings made by the encoder that the head was trained on, files or an open cache;
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
        ``no``; empty where the head or the cache does not have the hashes) and reason (why there
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
        refuse_answer(options.answer, axes, request.clip_ids, request.listed)
    with (
        nullcontext()
        if request.clips is None
        else _embedded(head, request, device, progress) as made
    ):
        cache = request.cache if made is None else made
        assert cache is not None
        table = predict_cache(head, cache, device)
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
) -> Iterator[Cache]:
    """Give the embeddings of a request's audio, which are gone when the block is left well."""
    from qamro_cache.scoring.embed import embed, embeddings_file

    options = request.options
    assert request.clips is not None
    if head.text_feature and options.audio is not None:
        raise QamroError(
            "this head takes the prompt too, which a folder of audio does not have; "
            "give --manifest clips.csv with the columns clip_id, path and prompt"
        )
    source = options.audio or options.manifest or request.clips.name
    with embeddings_file(options.out, head, source) as file:
        yield embed(head, request.clips, file, options, device=device, progress=progress)


def predict_cache(head: Head, cache: Cache, device: str = "cpu") -> pd.DataFrame:
    """Predict the clips of an open cache; see `predict`."""
    refuse_other_encoder(head, cache.identity)
    if head.feature not in cache.features:
        raise QamroError(
            f"the head takes the feature {head.feature!r}; the cache has: "
            f"{', '.join(cache.features)}"
        )
    windows, offsets, weights = cache.read(head.feature, device=device)
    counts = offsets.diff().cpu().numpy()
    text, missing = _prompts(head, cache, device)
    scored = (counts > 0) & (missing == "")
    known = np.where(missing != "", missing, cache.clips["reason"].to_numpy(str))
    reasons = np.where(scored, "", known)
    members = [np.full((len(one.seeds), len(cache.clips)), np.nan) for one in head.axes]
    ood = np.zeros((len(head.axes), len(cache.clips)), bool)
    for block in _blocks(counts, np.flatnonzero(scored)):
        taken = take_clips(offsets, torch.as_tensor(block, device=offsets.device))
        w, share = windows[taken.windows].float(), weights[taken.windows]
        prompt = None if text is None else text[torch.as_tensor(block, device=text.device)]
        for one, scores in zip(head.axes, members, strict=True):
            scores[:, block] = member_scores(head, one, w, taken.offsets, share, prompt)
        means = mean_rows(w.flatten(1), taken.clip, share, len(block))
        ood[:, block] = head.reference.is_ood(means).cpu().numpy()
        for row, one in enumerate(head.axes):
            if one.reference is not None:
                ood[row, block] = one.reference.is_ood(means).cpu().numpy()
    fingerprints = cache.fingerprints_of(np.arange(len(cache.clips)))
    learned = trained_on(head.trained, len(head.axes), cache.clips, fingerprints)
    parts = zip(head.axes, members, ood, learned, strict=True)
    table = pd.concat(
        [_table(cache, one, scores, far, known, reasons) for one, scores, far, known in parts],
        ignore_index=True,
    )
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
    cache: Cache,
    one: AxisHead,
    scores: Floats,
    ood: npt.NDArray[np.bool_],
    known: npt.NDArray[np.object_],
    reasons: Any,
) -> pd.DataFrame:
    """Return the rows of one axis."""
    if off := one.axis.notice_outside(scores.mean(0)):
        logger.warning(off)
    clips = cache.clips
    return pd.DataFrame(
        {
            "clip_id": clips["clip_id"],
            "system": clips["system"],
            "group": clips["group"],
            "axis": one.axis.name,
            "seed": "mean",
            "fold": "",
            "prediction": scores.mean(0),
            "target": _targets(cache.labels, one.axis.name),
            "scale": scale_name(one.axis),
            "std": scores.std(0, ddof=1) if len(scores) > 1 else np.nan,
            "ood": ood,
            "trained_on": known,
            "reason": reasons,
        },
        columns=list(COLUMNS),
    )


def refuse_other_encoder(head: Head, identity: Mapping[str, Any]) -> None:
    """Refuse embeddings of another encoder, or of the same one fed in another way."""
    differences = identity_differences(head.identity, identity)
    if differences:
        more = f" (and {len(differences) - 2} more)" if len(differences) > 2 else ""
        raise QamroError(
            "the head was trained on embeddings of another identity (here: the head's; there: "
            f"the cache's): {'; '.join(differences[:2])}{more}; extract the clips with the "
            "head's encoder, or train a head on this cache"
        )


def _prompts(head: Head, cache: Cache, device: str) -> tuple[Tensor | None, Any]:
    """Each clip's prompt embedding [C, T] (None for a head on audio alone), and what is missing."""
    none = np.full(len(cache.clips), "", object)
    if not head.text_feature:
        return None, none
    if head.text_feature not in cache.text_features:
        raise QamroError(
            f"the head takes prompts ({head.text_feature!r}), and this cache has none; "
            "extract with a manifest that has a column prompt"
        )
    read = cache.read_text(head.text_feature, device=device)
    none[(read.index < 0).cpu().numpy()] = "no prompt"
    return read.embeddings[read.index.clamp(min=0)], none


def _blocks(counts: Ints, rows: Ints) -> list[Ints]:
    """Cut clips into blocks of about _WINDOWS windows."""
    if len(rows) == 0:
        return []
    block = np.cumsum(counts[rows]) // _WINDOWS
    return np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _targets(labels: Labels, axis: str) -> Any:
    names = [one.name for one in labels.axes]
    return labels.mean[:, names.index(axis)] if axis in names else np.nan
