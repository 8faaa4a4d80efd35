"""Make something else of a cache: other labels, or files for other programs."""

import errno
import json
import os
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from qamro_cache.cache.assemble import assemble
from qamro_cache.cache.content import Array
from qamro_cache.cache.merge import refuse_loss
from qamro_cache.cache.reader import Cache, CacheLike, one_file, open_cache
from qamro_cache.cache.tables import open_tables
from qamro_cache.datasets.axes import notice_guessed, with_scales
from qamro_cache.datasets.ids import clean_id
from qamro_cache.datasets.options import RelabelOptions, parse_scales, refuse_columns
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.files import (
    plain_target,
    replace_folder,
    replaceable_folder,
    write_file,
    write_json,
    write_table,
)
from qamro_cache.memory import refuse_disk
from qamro_cache.paths import PathLike, as_path
from qamro_cache.settings import documented, from_options

FORMATS = ("safetensors", "npy")


@documented(RelabelOptions)
def relabel_cache(
    cache: CacheLike, labels: PathLike | None, out: PathLike | None = None, **options: Any
) -> int:
    """Replace ratings, systems, groups and splits by those of a label file; features stay.

    Args:
        cache: of one file, or open.
        labels: see ``qamro_cache.datasets.labels.relabel``; None changes the scales, or the name of
            the test, alone.
        out: cache file to make; None replaces the cache's, in one step.
        options: those of qamro-cache relabel by their names.

    Returns:
        The number of clips that have a rating now.

    Raises:
        QamroError: the label file is not of that form, the cache is damaged, or ``out`` exists
            and is no cache, or would lose clips.
    """
    from qamro_cache.datasets.labels import relabel

    asked: RelabelOptions = from_options(RelabelOptions, options)
    scales = parse_scales(asked.scale)
    refuse_columns(asked.columns, "--labels FILE", table=labels is not None)
    if labels is None and not scales and not asked.source:
        raise OptionError(
            "give --labels FILE, or --scale AXIS=LOW:HIGH or --source NAME for these alone"
        )
    path = one_file(cache)
    made = path if out is None else as_path(out)
    source = open_tables(path)
    size = len(source.clips)
    plain_target(made)
    if out is not None:
        refuse_loss(made, source.header.identity, source.clips["clip_id"])
    clips, old = source.clips, source.labels
    if labels is None:
        new = with_scales(old, scales, clips["clip_id"].tolist())
    else:
        clips, new = relabel(labels, clips, old, columns=asked.columns, scale=asked.scale)
    if asked.source:
        clips = clips.assign(source=clean_id(asked.source))
    notice_guessed(new.axes)
    order = np.stack([np.zeros(size, np.int64), np.arange(size)], axis=1)
    assemble(made, source.header, [source], order, clips, new)
    return int(np.isfinite(new.mean).any(axis=1).sum())


def export_cache(cache: CacheLike, folder: PathLike, form: str = "safetensors") -> list[str]:
    """Write a cache as plain arrays and tables for other programs.

    The new folder holds ``features.safetensors`` (or one ``.npy`` an array), ``clips.csv``,
    ``labels.csv`` (one row a clip and axis), ``ratings.csv`` where single ratings are known, and
    ``manifest.json`` with shapes, types and the identity.

    Args:
        cache: its file or files, or an open cache.
        folder: to make; it must not exist.
        form: ``safetensors`` or ``npy``.

    Returns:
        The names of the files.

    Raises:
        QamroError: the folder exists, or the cache is damaged.
    """
    if form not in FORMATS:
        raise QamroError(f"no form {form!r}; there are {' and '.join(FORMATS)}")
    folder = as_path(folder)
    if folder.exists() or folder.is_symlink():
        raise QamroError(f"{folder} exists; name a new folder")
    replaceable_folder(folder)
    opened = open_cache(cache)
    refuse_disk(sum(path.stat().st_size for path in opened.paths), folder)
    with replace_folder(folder, ()) as new:
        _write_arrays(opened, new, form)
        _write_tables(opened, new)
    return sorted(path.name for path in folder.iterdir())


def _arrays(cache: Cache) -> dict[str, Array]:
    fingerprints = cache.read_fingerprints()
    arrays: dict[str, Array] = {
        "fingerprints.values": fingerprints.values,
        "fingerprints.offsets": fingerprints.offsets,
    }
    for name in cache.features:
        windows, offsets, weights = cache.read(name)
        arrays[f"features.{name}"] = windows.numpy()
        arrays["windows.offsets"], arrays["windows.weight"] = offsets.numpy(), weights.numpy()
    for name in cache.text_features:
        embeddings, index = cache.read_text(name)
        arrays[f"text_features.{name}"] = embeddings.numpy()
        arrays["prompts.clip"] = index.numpy()
    return arrays


def _save_npy(array: Array, file: BinaryIO) -> None:
    # Given a file of the system's, numpy writes past it and loses the reason when the disk is full.
    np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def _write_arrays(cache: Cache, folder: Path, form: str) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = _arrays(cache)
    if form == "safetensors":
        path = folder / "features.safetensors"
        try:
            save_file(arrays, path, {"identity": json.dumps(cache.identity)})
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error
    else:
        for name, array in arrays.items():
            write_file(folder / f"{name}.npy", partial(_save_npy, array))
    manifest = {
        "format": form,
        "dataset": cache.dataset,
        "synthetic": cache.synthetic,
        "clips": len(cache.clips),
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in arrays.items()
        },
        "prompts": list(cache.prompts),
        "identity": cache.identity,
        "identity_sha256": cache.identity_sha256,
        "provenance": cache.provenance,
        "licenses": cache.licenses,
    }
    write_json(folder / "manifest.json", manifest)


def _write_tables(cache: Cache, folder: Path) -> None:
    write_table(folder / "clips.csv", cache.clips)
    labels, ids = cache.labels, cache.clips["clip_id"].to_numpy(object)
    names = np.array([axis.name for axis in labels.axes], object)
    rows = pd.DataFrame(
        {
            "clip_id": np.repeat(ids, len(names)),
            "axis": np.tile(names, len(ids)),
            "low": np.tile([axis.low for axis in labels.axes], len(ids)),
            "high": np.tile([axis.high for axis in labels.axes], len(ids)),
            "guessed": np.tile([axis.guessed for axis in labels.axes], len(ids)),
            "mean": labels.mean.reshape(-1),
            "count": labels.count.reshape(-1),
            "stderr": labels.stderr.reshape(-1),
        }
    )
    write_table(folder / "labels.csv", rows)
    ratings = labels.ratings
    if ratings is not None:
        raters = np.array([*ratings.raters, ""], object)
        rows = pd.DataFrame(
            {
                "clip_id": ids[ratings.clip],
                "axis": names[ratings.axis],
                "rater": raters[ratings.rater],
                "score": ratings.score,
            }
        )
        write_table(folder / "ratings.csv", rows)
