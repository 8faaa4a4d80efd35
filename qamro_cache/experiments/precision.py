"""What ``--precision auto`` of a training is: that of the folder, else what is quick and exact."""

import json
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from qamro_cache.devices import usable_device
from qamro_cache.experiments.options import AblateOptions, RunOptions
from qamro_cache.files import write_text
from qamro_cache.settings import settings_of

logger = logging.getLogger("qamro_cache")

#: On a GPU that has it: 1.8 times as fast as float32 with 1,000 heads on an H100, and the SRCC of
#: twelve is the same to .0001 (benchmarks/results/grid-cuda.json).
ON_A_GPU = "tf32"

Options = TypeVar("Options", bound=RunOptions)


def decided(options: Options, out: Path, *, anew: bool) -> Options:
    """Return the options with a precision by its name.

    Args:
        options: of a run or a grid.
        out: its folder; what has been trained there has the precision that ``auto`` is.
        anew: whether what is there will be replaced.
    """
    if options.precision != "auto":
        return options
    earlier = "" if anew else _earlier(out)
    away = isinstance(options, AblateOptions) and bool(options.ray)  # not known what is there
    found = earlier or ("float32" if away else _of_the_device(options.device))
    if found != "float32":
        logger.info("--precision auto: %s%s", found, f", as in {out}" if earlier else "")
    return replace(options, precision=found)


def keep_precision(done: Path, precision: str) -> None:
    """Leave beside a grid's results what they are computed in: a stopped one goes on in it."""
    path = done / "precision"
    with suppress(OSError, ValueError):
        if path.read_text(encoding="utf-8") == precision:
            return
    write_text(path, precision)


def _earlier(out: Path) -> str:
    """Return the precision of what is in a folder; empty where that is not known."""
    found: object = ""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads((out / "config.json").read_text(encoding="utf-8"))["precision"]
    # A grid's, that may not have come to its end.
    with suppress(OSError, ValueError):
        found = (out / "done" / "precision").read_text(encoding="utf-8")
    known = settings_of(RunOptions)["precision"].choices[1:]
    return found if isinstance(found, str) and found in known else ""


def _of_the_device(name: str) -> str:
    """Return what is quick on a device: PyTorch computes every head's products in it itself."""
    import torch

    device = torch.device(usable_device(name))
    new = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return ON_A_GPU if new else "float32"
