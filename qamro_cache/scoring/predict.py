"""Scores for new clips from a head file, from a cache or straight from audio."""

import logging
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from qamro_cache.audio.endings import AUDIO_ENDINGS, find_audio, others_message
from qamro_cache.datasets.records import Labels
from qamro_cache.errors import QamroError
from qamro_cache.heads.file import Head, load_head
from qamro_cache.heads.network import forward
from qamro_cache.heads.pooling import clip_of_window, mean_rows
from qamro_cache.identity import identity_differences

if TYPE_CHECKING:
    from qamro_cache.cache.reader import Cache
    from qamro_cache.datasets.records import Dataset
    from qamro_cache.encoders.protocol import Encoder

logger = logging.getLogger("qamro_cache")

#: Windows scored at once: bounds the memory for hidden layers, whatever the cache's size.
_WINDOWS = 8192

#: Of the table of predictions.
COLUMNS = (
    "clip_id",
    "system",
    "group",
    "axis",
    "seed",
    "fold",
    "prediction",
    "target",
    "scale",
    "std",
    "ood",
    "reason",
)


def predict(
    head: Path | Head,
    *,
    cache: "Path | Sequence[Path] | Cache | None" = None,
    audio: "Path | Dataset | None" = None,
    checkpoint: str = "",
    tokenizer: str = "",
    allow_pickle: bool = False,
    device: str = "cpu",
    progress: Callable[..., None] | None = None,
) -> pd.DataFrame:
    """Predict every axis of a head for every clip; members (seeds) are averaged.

    Args:
        head: a head file of qamro-train, or one already loaded.
        cache: embeddings made by the encoder that the head was trained on, or
        audio: a folder (searched below), a file, or clips with their prompts; embedded with that
            encoder into a temporary cache.
        checkpoint: the encoder's weights for ``audio``, where it needs a file.
        tokenizer: its vocabulary, likewise.
        allow_pickle: as in ``EncoderOptions``.
        device: for the encoder and the head.
        progress: passed to `extract`.

    Returns:
        One row an axis and clip: clip_id, system, group, axis, seed ("mean"), fold (empty),
        prediction (in the axis' units, NaN for a clip that has none), target (NaN where not
        known), scale (the axis' range as "low..high"), std (standard deviation over the
        members), ood (out of distribution: farther from the training set than 99 % of it) and
        reason (why there is no prediction).

    Raises:
        QamroError: the head or cache is not usable, or the cache was made by another encoder.
    """
    if isinstance(head, Path):
        head = load_head(head)
    if (cache is None) == (audio is None):
        raise QamroError("name either a cache or a folder of audio")
    if audio is not None:
        from qamro_cache.encoders.registry import load_encoder, options_of

        clips = _clips_of(head, audio) if isinstance(audio, Path) else audio
        options = options_of(head.identity, checkpoint, tokenizer, allow_pickle)
        encoder = load_encoder(str(head.identity["name"]), options, device)
        with tempfile.TemporaryDirectory(prefix="qamro-predict-") as folder:
            made = _embed(head, clips, Path(folder) / "emb.h5", encoder, device, progress)
            return predict_cache(head, made, device)
    from qamro_cache.cache.reader import Cache, open_cache

    assert cache is not None
    return predict_cache(head, cache if isinstance(cache, Cache) else open_cache(cache), device)


def predict_cache(head: Head, cache: "Cache", device: str = "cpu") -> pd.DataFrame:
    """Predict the clips of an open cache; see `predict`."""
    check_identity(head, cache.identity)
    if cache.dataset and cache.dataset == head.training.get("dataset"):
        logger.warning(
            "the head was trained on a set of this name, %s: what it says about clips that it was "
            "trained on is no sign of how good it is; that is in the predictions.csv of its "
            "qamro-train run",
            cache.dataset,
        )
    offsets, weights, windows = _windows(head, cache, device)
    used = (offsets.diff() > 0).cpu()
    text, reasons = _prompts(head, cache, device)
    scored = used.numpy() & (reasons == "")
    clips = cache.clips
    reasons = np.where(scored, "", np.where(reasons != "", reasons, clips["reason"].to_numpy(str)))
    rows = np.flatnonzero(scored)
    members = [np.full((len(one.seeds), len(clips)), np.nan) for one in head.axes]
    ood = np.zeros(len(clips), bool)
    for block in _blocks(offsets.diff().cpu().numpy(), rows):
        w, o, share = _select(windows, offsets, weights, block)
        prompt = None if text is None else text[torch.as_tensor(block, device=text.device)]
        for one, scores in zip(head.axes, members, strict=True):
            params = {name: value.to(w.device) for name, value in one.params.items()}
            out = forward(
                head.settings,
                params,
                w,
                o,
                share,
                text=prompt,
                mean=None if one.row_mean is None else one.row_mean.to(w.device),
                std=None if one.row_std is None else one.row_std.to(w.device),
                bounds=one.bounds.to(w.device),
            )
            scores[:, block] = (one.label_mean + one.label_std * out.double()).cpu().numpy()
        rows_of_clips = mean_rows(w.flatten(1), clip_of_window(o), share, len(block))
        ood[block] = head.reference.is_ood(rows_of_clips).cpu().numpy()
    for one, scores in zip(head.axes, members, strict=True):
        if off := one.axis.notice_outside(scores.mean(0)):
            logger.warning(off)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "clip_id": clips["clip_id"],
                    "system": clips["system"],
                    "group": clips["group"],
                    "axis": one.axis.name,
                    "seed": "mean",
                    "fold": "",
                    "prediction": scores.mean(0),
                    "target": _targets(cache.labels, one.axis.name),
                    "scale": f"{one.axis.low:g}..{one.axis.high:g}",
                    "std": scores.std(0, ddof=1) if len(scores) > 1 else np.nan,
                    "ood": ood,
                    "reason": reasons,
                },
                columns=list(COLUMNS),
            )
            for one, scores in zip(head.axes, members, strict=True)
        ],
        ignore_index=True,
    )


def write_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table of predictions as CSV, whole or not at all; replace only an older one."""
    refuse_other_file(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # File names that are not UTF-8 keep their bytes.
        table.to_csv(temporary, index=False, errors="surrogateescape")
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def refuse_other_file(path: Path) -> None:
    """Refuse to replace anything but a table of `predict`; a command asks before the work, too."""
    if not path.exists():
        return
    with path.open("rb") as file:
        # The table of qamro-train, out of fold, has other columns and is not replaced either.
        if file.readline().rstrip() != ",".join(COLUMNS).encode():
            raise QamroError(
                f"{path} is no table of qamro-predict, and is kept; choose another name"
            )


def write_answer_file(table: pd.DataFrame, path: Path, answer_list: Path | None = None) -> None:
    """Write predictions as a challenge's ``answer.txt``; the track is told by the axes.

    Args:
        table: of `predict`.
        path: the file to write.
        answer_list: the challenge's list of clips: its order is kept, and each must be there.
    """
    from qamro_cache.datasets.answers import TRACK_AXES, read_answer_list, write_answer

    axes = list(dict.fromkeys(table["axis"]))
    tracks = [track for track, names in TRACK_AXES.items() if set(names) <= set(axes)]
    if not tracks:
        wanted = " or ".join(", ".join(names) for names in TRACK_AXES.values())
        raise QamroError(
            f"{path}: an answer has the axes {wanted}; this head predicts {', '.join(axes)}"
        )
    parts = {str(a): p["prediction"].to_numpy(np.float64) for a, p in table.groupby("axis")}
    clip_ids = list(table[table["axis"] == axes[0]]["clip_id"])
    listed = None if answer_list is None else read_answer_list(answer_list)
    write_answer(path, clip_ids, parts, tracks[0], listed)


def check_identity(head: Head, identity: Mapping[str, Any]) -> None:
    """Refuse embeddings of another encoder, or of the same one fed in another way."""
    differences = identity_differences(head.identity, identity)
    if differences:
        more = f" (and {len(differences) - 2} more)" if len(differences) > 2 else ""
        raise QamroError(
            "the head was trained on embeddings of another identity (here: the head's; there: "
            f"the cache's): {'; '.join(differences[:2])}{more}; extract the clips with the "
            "head's encoder, or train a head on this cache"
        )


def _clips_of(head: Head, audio: Path) -> "Dataset":
    from qamro_cache.datasets.records import CLIP_COLUMNS, Dataset, labels_from_means

    if head.text_feature:
        raise QamroError(
            "this head takes the prompt too, which a folder of audio does not have; "
            "give --manifest clips.csv with the columns clip_id, path and prompt"
        )
    if not audio.exists():
        raise QamroError(f"{audio}: no such file or folder")
    paths, others = ([audio], Counter[str]()) if audio.is_file() else find_audio(audio)
    if others:
        logger.warning("%s: %s", audio, others_message(others))
    if not paths:
        raise QamroError(f"{audio}: no audio file there (looked for {', '.join(AUDIO_ENDINGS)})")
    folder = audio.parent if audio.is_file() else audio
    clips = pd.DataFrame("", index=range(len(paths)), columns=list(CLIP_COLUMNS))
    clips["clip_id"] = [path.relative_to(folder).as_posix() for path in paths]
    clips["path"] = [str(path.resolve()) for path in paths]
    return Dataset("audio", clips, labels_from_means((), np.empty((len(paths), 0))))


def _embed(
    head: Head,
    clips: "Dataset",
    out: Path,
    encoder: "Encoder",
    device: str,
    progress: Callable[..., None] | None,
) -> "Cache":
    from qamro_cache.cache.reader import open_cache
    from qamro_cache.extraction.extract import extract

    dtype = str(head.identity.get("stored_dtype", ""))
    extract(clips, out, encoder, device=device, dtype=dtype, progress=progress)
    return open_cache(out)


def _windows(head: Head, cache: "Cache", device: str) -> tuple[Tensor, Tensor, Tensor]:
    if head.feature not in cache.features:
        raise QamroError(
            f"the head takes the feature {head.feature!r}; the cache has: "
            f"{', '.join(cache.features)}"
        )
    read = cache.read(head.feature, device=device)
    return read.offsets, read.weights, read.windows


def _prompts(head: Head, cache: "Cache", device: str) -> tuple[Tensor | None, Any]:
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


def _blocks(num_windows: Any, rows: Any) -> list[Any]:
    """Cut clips into blocks of about _WINDOWS windows."""
    if len(rows) == 0:
        return []
    block = np.cumsum(num_windows[rows]) // _WINDOWS
    return np.split(rows, np.flatnonzero(np.diff(block)) + 1)


def _select(
    windows: Tensor, offsets: Tensor, weights: Tensor, clips: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The windows, offsets and weights of some clips."""
    chosen = torch.as_tensor(clips, device=offsets.device)
    count = offsets.diff()[chosen]
    new = torch.cat([count.new_zeros(1), count.cumsum(0)])
    within = torch.arange(int(new[-1]), device=offsets.device) - new[:-1].repeat_interleave(count)
    index = (offsets[chosen].repeat_interleave(count) + within).to(windows.device)
    return windows[index].float(), new.to(windows.device), weights[index].to(windows.device)


def _targets(labels: Labels, axis: str) -> Any:
    names = [one.name for one in labels.axes]
    return labels.mean[:, names.index(axis)] if axis in names else np.nan
