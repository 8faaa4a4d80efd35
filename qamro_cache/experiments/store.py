"""What lies in the folder of a run or a grid, and what is refused there."""

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qamro_cache.errors import QamroError, words_of
from qamro_cache.evaluation.kinds import JACKKNIFE
from qamro_cache.files import write_file
from qamro_cache.heads.header import in_order

logger = logging.getLogger("qamro_cache")

#: What qamro-train writes into its folder, beside a folder of the folds' heads.
RUN_FILES = ("config.json", "metrics.json", "predictions.csv", "head.safetensors")

#: What qamro-ablate writes into its folder, beside ``done/``, where trained results are kept.
GRID_FILES = (
    "config.json", "results.csv", "summary.csv", "study.csv", "best.json", "predictions.csv"
)  # fmt: skip

#: Options that decide intervals alone.
_OF_INTERVALS = {"interval", "over", "resamples"}

#: Kept of each head in ``done/``.
_KEPT = {
    "predictions": "f", "best_epoch": "i", "diverged": "b", "stability": "f", "preference": "f"
}  # fmt: skip


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
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        earlier, labels = config["asked"], config["given"].get("labels") or config["cache"][0]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        earlier, labels = None, ""
    if earlier == asked:
        return
    what, instead = f"{there[0]} of something else", ""
    if isinstance(earlier, dict):
        changed = [n for n in {**earlier, **asked} if earlier.get(n) != asked.get(n)]
        what = f"a run that differs in {', '.join(changed)}"
        if set(changed) <= _OF_INTERVALS:
            instead = f"intervals alone need no training: {_evaluation(out, labels, asked)}; or "
    raise QamroError(
        f"{out} holds {what}; {instead}name another folder, or replace it with --overwrite"
    )


def _evaluation(out: Path, labels: str, asked: Mapping[str, Any]) -> str:
    """Return the command that shows a run with the intervals that are asked."""
    words = ["qamro-evaluate", "--predictions", str(out), "--labels", str(labels)]
    said = {name: asked.get(name) for name in sorted(_OF_INTERVALS)}
    if not any(value not in (None, "") for value in said.values()):
        said = {"interval": JACKKNIFE.name}
    for name, value in said.items():
        words += [] if value in (None, "") else [f"--{name}", str(value)]
    return shlex.join(words)


def keep_stack(folder: Path, keys: Sequence[str], results: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a stack's results to a file of its own: whole, or not there.

    Args:
        folder: where.
        keys: name of each head's result.
        results: ``predictions`` [H, C] (NaN where a head is not judged), ``best_epoch`` [H],
            ``diverged`` [H], ``stability`` [H] and ``preference`` [H, 2].
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(results[name]) for name in _KEPT}
    text = json.dumps(list(keys))
    data = in_order(save(arrays, metadata={"keys": text, "sha256": _checksum(text, arrays)}))
    write_file(folder / f"{stack_name(keys)}.safetensors", lambda file: file.write(data))


def stack_name(keys: Sequence[str]) -> str:
    """Return the name of the file of a stack with these heads."""
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:16]


def read_stacks(folder: Path, clips: int) -> dict[str, dict[str, Any]]:
    """Read all kept results of ``clips`` clips: key -> one head's; others are trained again."""
    done: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            keys, arrays = _read(path)
        except Exception as error:  # whatever a damaged file makes the reader raise
            logger.warning("%s cannot be read and is trained again: %s", path, words_of(error))
            continue
        # Of another set of clips: not for this grid.
        if arrays["predictions"].shape[1] != clips:
            continue
        for row, key in enumerate(keys):
            done[key] = {name: values[row] for name, values in arrays.items()}
    return done


def _read(path: Path) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    from safetensors import safe_open

    # Sizes in the header must add up to the file's: a lie about them takes no memory.
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if set(file.keys()) != set(_KEPT) or not {"keys", "sha256"} <= set(metadata):
            raise ValueError("it holds something else than a stack's results")
        arrays = {name: file.get_tensor(name) for name in _KEPT}
    if metadata["sha256"] != _checksum(metadata["keys"], arrays):
        raise ValueError("its checksum is wrong")
    keys = json.loads(metadata["keys"])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its keys are no list of texts")
    for name, kind in _KEPT.items():
        shape = (len(keys), *arrays[name].shape[1:])
        depth = 2 if name in ("predictions", "preference") else 1
        if arrays[name].dtype.kind != kind or arrays[name].shape != shape or len(shape) != depth:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}")
    return keys, arrays


def _checksum(keys: str, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(keys.encode())
    for name in _KEPT:
        digest.update(f"{name} {arrays[name].dtype} {list(arrays[name].shape)}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
