"""What lies in the folder of a run or a grid, and what is refused there."""

import hashlib
import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qamro_cache.errors import QamroError, words_of
from qamro_cache.evaluation.kinds import JACKKNIFE
from qamro_cache.files import write_file
from qamro_cache.heads.header import in_order

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("qamro_cache")

#: What qamro-train writes into its folder, beside a folder of the folds' heads.
RUN_FILES = ("config.json", "metrics.json", "predictions.csv", "head.safetensors")

#: What qamro-ablate writes into its folder, beside ``done/``, where trained results are kept.
GRID_FILES = (
    "config.json", "results.csv", "summary.csv", "study.csv", "best.json", "predictions.csv"
)  # fmt: skip

#: Options that decide intervals alone.
_OF_INTERVALS = {"interval", "over", "resamples"}

#: Folders of a grid that is not finished: results, and stacks in training.
_IN_TRAINING = ("done", "begun")

#: Kept of each head in ``done/``.
_KEPT = {
    "predictions": "f", "best_epoch": "i", "diverged": "b", "stability": "f", "preference": "f"
}  # fmt: skip


def audio_of(tables: Iterable[pd.DataFrame]) -> dict[str, str]:
    """Return where clips are on this machine: nothing for a head file, which is passed on."""
    return {
        name: path
        for table in tables
        for name, path in zip(table["clip_id"], table["path"], strict=True)
    }


def refuse_other_run(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds anything but the run of the same arguments and cache.

    Args:
        out: folder.
        asked: what a run depends on; ``config.json`` holds the earlier run's as ``asked``.
    """
    there = [name for name in RUN_FILES if (out / name).exists()]
    if not there and any(any((out / name).glob("*.safetensors")) for name in _IN_TRAINING):
        raise QamroError(f"{out} holds a grid of qamro-ablate in training; name another folder")
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
    import torch

    # Copies: what comes from another process may not be written to, which torch warns of.
    tensors = {name: torch.from_numpy(np.array(results[name], order="C")) for name in _KEPT}
    write_stack(folder, keys, tensors)


def write_stack(folder: Path, keys: Sequence[str], tensors: Mapping[str, "Tensor"]) -> None:
    """Write tensors of a stack's heads, with their keys and a checksum of all."""
    from safetensors.torch import save

    from qamro_cache.heads.file import checksum

    text = json.dumps(list(keys))
    metadata = {"keys": text, "sha256": checksum(text, tensors)}
    data = in_order(save(dict(tensors), metadata=metadata))
    write_file(stack_file(folder, keys), lambda file: file.write(data))


def stack_file(folder: Path, keys: Sequence[str]) -> Path:
    """Return the file of a stack with these heads."""
    return folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}.safetensors"


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


def read_stack(path: Path) -> tuple[list[str], dict[str, "Tensor"]]:
    """Return the keys and tensors of `write_stack`; a damaged file raises whatever it does."""
    from safetensors.torch import load

    from qamro_cache.heads.file import checksum

    # The library opens no file whose name is not UTF-8. It sees that the sizes in the header add
    # up to the file's: a lie about them takes no memory.
    data = path.read_bytes()
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__", {})
    if metadata["sha256"] != checksum(metadata["keys"], tensors):
        raise ValueError("its checksum is wrong")
    keys = json.loads(metadata["keys"])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its keys are no list of texts")
    return keys, tensors


def _read(path: Path) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    keys, tensors = read_stack(path)
    if set(tensors) != set(_KEPT):
        raise ValueError("it holds something else than a stack's results")
    arrays = {name: tensors[name].numpy() for name in _KEPT}
    for name, kind in _KEPT.items():
        shape = (len(keys), *arrays[name].shape[1:])
        depth = 2 if name in ("predictions", "preference") else 1
        if arrays[name].dtype.kind != kind or arrays[name].shape != shape or len(shape) != depth:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}")
    return keys, arrays
