"""What lies in the folder of a run or a grid, and what is refused there."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.errors import QamroError, words_of
from qamro_cache.files import write_file

logger = logging.getLogger("qamro_cache")

#: What qamro-train writes into its folder, beside a folder of the folds' heads.
RUN_FILES = ("config.json", "metrics.json", "predictions.csv", "head.safetensors")

#: First line of a kept stack: heads, clips, and the sha256 of all that is not the hash.
_FIRST = re.compile(rb"qamro-stack 1 (\d{1,9}) (\d{1,9}) ([0-9a-f]{64})\n", re.ASCII)


def refuse_file(out: Path) -> None:
    """Refuse an output folder whose name a file has, before the work and not after it."""
    if out.exists() and not out.is_dir():
        raise QamroError(f"{out} is a file; name a folder for the results")


def refuse_other_run(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but the run of the same arguments and cache.

    Args:
        out: folder.
        asked: what a run depends on; ``config.json`` holds the earlier run's as ``asked``.
    """
    there = [name for name in RUN_FILES if (out / name).exists()]
    if not there:
        return
    try:
        earlier = json.loads((out / "config.json").read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        earlier = None
    if earlier == asked:
        return
    what = f"{there[0]} of something else"
    if isinstance(earlier, dict):
        changed = [n for n in {**earlier, **asked} if earlier.get(n) != asked.get(n)]
        what = f"a run that differs in {', '.join(changed)}"
    raise QamroError(f"{out} holds {what}; name another folder, or replace it with --overwrite")


def keep_stack(
    folder: Path, keys: Sequence[str], results: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """Write a stack's results to a file of its own: whole, or not there.

    Args:
        folder: where.
        keys: name of each head's result, a sha256.
        results: ``predictions`` [H, C] (NaN where a head is not judged), ``best_epoch`` [H],
            ``diverged`` [H] and ``stability`` [H].

    Returns:
        What `read_stacks` reads of it.
    """
    clips = results["predictions"].shape[1]
    rows = np.zeros(len(keys), _row(clips))
    rows["key"] = keys
    for name, values in results.items():
        rows[name] = values
    data = rows.tobytes()
    counts = b"%d %d" % (len(keys), clips)
    digest = hashlib.sha256(counts + data).hexdigest().encode()
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    first = b"qamro-stack 1 " + counts + b" " + digest + b"\n"
    write_file(folder / f"{name}.stack", lambda file: file.write(first + data))
    return _by_key(rows)


def read_stacks(folder: Path) -> dict[str, Any]:
    """Read all kept results: key -> a head's, by the names of `keep_stack`.

    A damaged file's heads are not among them, and a notice says so.
    """
    done: dict[str, Any] = {}
    for path in sorted(folder.glob("*.stack")):
        try:
            done |= _by_key(_read(path))
        except (OSError, ValueError) as error:
            logger.warning(
                "%s cannot be read and is trained again: %s; remove it", path, words_of(error)
            )
    return done


def _row(clips: int) -> npt.DTypeLike:
    """Return the type of one head's result."""
    return [
        ("key", "S64"),
        ("best_epoch", "<i8"),
        ("diverged", "?"),
        ("stability", "<f8"),
        ("predictions", "<f4", (clips,)),
    ]


def _by_key(rows: npt.NDArray[Any]) -> dict[str, Any]:
    return {row["key"].decode("ascii", "replace"): row for row in rows}


def _read(path: Path) -> npt.NDArray[Any]:
    """Read a kept stack; no memory is taken before size and checksum are right."""
    if not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        found = _FIRST.fullmatch(file.readline(128))
        if found is None:
            raise ValueError("it is no kept stack")
        heads, clips = int(found[1]), int(found[2])
        kind, start = np.dtype(_row(clips)), file.tell()
        if start + heads * kind.itemsize != path.stat().st_size:
            raise ValueError("it is cut short, or too long")
        digest = hashlib.sha256(b"%d %d" % (heads, clips))
        while part := file.read(1 << 20):
            digest.update(part)
        if digest.hexdigest().encode() != found[3]:
            raise ValueError("its checksum is wrong")
        file.seek(start)
        return np.fromfile(file, kind, heads)
