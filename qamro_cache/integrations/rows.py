"""Rows with sound in them, as a ``datasets.Dataset`` has them, to files and a manifest."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qamro_cache.audio.endings import ENDINGS
from qamro_cache.audio.waveform import as_waveform
from qamro_cache.errors import OptionError, QamroError, quoted
from qamro_cache.files import refuse_other, write_file, write_text
from qamro_cache.paths import PathLike, as_path

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("qamro_cache")

#: In the folder that is made: the manifest, and the SHA-256 of those that were written there.
MANIFEST, MARK = "rows.csv", ".write_rows"


def write_rows(
    rows: Iterable[Mapping[str, Any]], folder: PathLike, *, audio: str = "audio"
) -> Path:
    """Write the sounds of rows into a folder, and a manifest of them with all that rows say.

    A row's sound may be bytes of a file (written as they are), the path of one that is there (left
    where it is), or samples with their rate (written as float32 WAV, every sample kept): what the
    feature ``Audio`` of ``datasets`` gives, decoded or not, a decoder of torchcodec too. Rows are
    taken one after the other, so a streamed set never has to fit in memory.

    Args:
        rows: texts, numbers, or lists of them by column, and the sound.
        folder: to make, or one that this made, whose files are replaced.
        audio: the column of the sound.

    Returns:
        ``folder/rows.csv``, as ``--manifest`` and `load_manifest` take it: ``clip_id`` (the row's
        own, else its number), ``path``, and the rows' other columns. A row whose sound cannot be
        decoded is in it too, and will be a clip that is missing, with a notice here.

    Raises:
        QamroError: there are no rows, a row has no such column, or the folder cannot be written
            or has somebody else's files of these names.
    """
    import pandas as pd

    folder = as_path(folder, "a folder")
    manifest = folder / MANIFEST
    _refuse_others(folder)
    made: list[dict[str, Any]] = []
    skipped: set[str] = set()
    for number, row in enumerate(rows):
        if audio not in row:
            raise QamroError(
                f"row {number} has no column {quoted(audio)} (columns: "
                f"{', '.join(map(str, row))}); name the column of the sound: audio=..."
            )
        if not number and not (folder / MARK).exists():
            write_text(folder / MARK, "")
        about = {str(name): _cell(value) for name, value in row.items() if name != audio}
        skipped |= {name for name, cell in about.items() if cell is None}
        about = {name: cell for name, cell in about.items() if cell is not None}
        try:
            about["path"] = _file(row[audio], folder / f"{number:06d}")
        except QamroError:
            raise
        except Exception as error:  # whatever a decoder raises
            about["path"] = f"{number:06d}.missing"
            logger.warning("row %d: its sound cannot be decoded (%s)", number, _flat(error))
        made.append({"clip_id": f"{number:06d}", **about})
    if not made:
        raise QamroError(f"{folder}: there are no rows to write")
    if skipped:
        logger.info("columns that are no texts, numbers or lists of them are left out: %s",
                    ", ".join(sorted(skipped)))  # fmt: skip
    _write(manifest, pd.DataFrame(made, dtype=object))
    return manifest


def _write(manifest: Path, table: "pd.DataFrame") -> None:
    """Write a manifest, and that it was written here: that first, so that nobody doubts it."""
    made = BytesIO()
    table.to_csv(made, index=False, errors="surrogateescape")
    content = made.getvalue()
    known = [*_written(manifest.parent), hashlib.sha256(content).hexdigest()]
    write_text(manifest.parent / MARK, "\n".join(known))
    write_file(manifest, lambda file: file.write(content))


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with files of these names that were not written here."""
    refuse_other(
        folder / MANIFEST,
        "manifest as write_rows left it",
        lambda path: hashlib.sha256(path.read_bytes()).hexdigest() in _written(folder),
    )
    if (folder / MARK).exists():
        return
    with suppress(OSError):  # there is no folder yet
        for path in folder.iterdir():
            if re.fullmatch(r"\d{6}\.\w+", path.name):
                raise QamroError(
                    f"{path} is there already, not written by write_rows, and is kept; choose "
                    "another folder"
                )


def _written(folder: Path) -> list[str]:
    """Return the SHA-256 of the manifests that were written to a folder."""
    mark = folder / MARK
    return mark.read_text().split() if mark.exists() else []


def _cell(value: Any) -> Any:
    """Return what a table can hold of a value; None for what it cannot."""
    if value is None:
        return ""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list | tuple) and all(
        isinstance(one, str | int | float | None) for one in value
    ):
        return json.dumps(list(value))
    return value if isinstance(value, str | int | float) else None


def _file(sound: Any, target: Path) -> str:
    """Write a row's sound if it is no file yet, and return where it is, from the folder."""
    if isinstance(sound, str | os.PathLike):
        return str(os.path.abspath(os.fspath(sound)))  # noqa: PTH100 - a name of any bytes
    if isinstance(sound, Mapping) and "array" not in sound:
        data, path = sound.get("bytes"), sound.get("path")
        if data is None:
            if not path:
                raise ValueError("it has neither bytes nor a path")
            return os.path.abspath(str(path))  # noqa: PTH100
        ending = Path(str(path or "")).suffix.lower()
        target = target.with_suffix(ending if ending in ENDINGS else ".audio")
        content = bytes(data)
        write_file(target, lambda file: file.write(content))
        return target.name
    if hasattr(sound, "get_all_samples"):  # a decoder of torchcodec
        found = sound.get_all_samples()
        return _samples(np.asarray(found.data), found.sample_rate, target)
    return _samples(np.asarray(sound["array"]), sound["sampling_rate"], target)


def _samples(values: npt.NDArray[Any], rate: Any, target: Path) -> str:
    """Write samples, which are as `Scorer` takes them, as float32 WAV."""
    import soundfile

    try:
        wave = as_waveform(values, rate)
    except OptionError as error:  # of this row alone
        raise ValueError(str(error)) from error
    target = target.with_suffix(".wav")
    write_file(
        target,
        lambda file: soundfile.write(file, wave.samples, wave.rate, format="WAV", subtype="FLOAT"),
    )
    return target.name


def _flat(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
