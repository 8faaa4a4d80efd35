"""Results of stacks that are done, so that a grid that was stopped goes on from there."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from qamro_cache.training.inputs import Bools
from qamro_cache.training.result import Result

logger = logging.getLogger("qamro_cache")


def keep(folder: Path, keys: Sequence[str], test: Bools, result: Result) -> None:
    """Write a stack's results to a file of its own: whole, or not there.

    Args:
        folder: where.
        keys: name of each head's result.
        test: [H, C] the clips that each head is judged by: only these predictions are kept.
        result: of the stack.
    """
    predictions = np.where(test, result.predictions.float().numpy(), np.nan)
    stability = result.stability.double().numpy()
    seen = np.isfinite(stability)
    with np.errstate(invalid="ignore"):
        stability = np.where(seen, stability, 0).sum(0) / seen.sum(0)
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    temporary = folder / f".{name}.tmp"
    with temporary.open("wb") as file:
        np.savez(
            file,
            keys=np.array(keys),
            predictions=predictions.astype(np.float32),
            best_epoch=result.best_epoch.numpy(),
            diverged=result.diverged.numpy(),
            stability=stability,
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / f"{name}.npz")


def read_done(folder: Path) -> dict[str, dict[str, Any]]:
    """Read all kept results: key -> one head's; a damaged file is trained again."""
    done: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            keys = arrays.pop("keys")
            for row, key in enumerate(keys.tolist()):
                done[key] = {name: values[row] for name, values in arrays.items()}
        except (OSError, ValueError, KeyError, EOFError, IndexError, BadZipFile) as error:
            logger.warning("%s cannot be read and is trained again: %s", path, error)
    return done
