"""Which kernels a GPU may run: those that agreed there with plain torch, in another process.

A kernel that reads where it must not spoils the process that it runs in, so each is tried in a
child first (`qamro_cache.training.check`). What it found lies in the user's cache folder, and is
asked again when the device, the driver, torch, Triton, the compiler or our kernels change.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from qamro_cache.files import write_json

logger = logging.getLogger("qamro_cache")

#: Families, in the order in which they are tried, and what stands in for each.
FAMILIES = ("graph", "loss", "measures", "passes", "step loss", "products")
#: Run with a device and families; writes a line of JSON for each, after one that says "ready".
CHECKER = "qamro_cache.training.check"
#: Seconds until a child is given up.
PATIENCE = 120
#: Set to 0, no kernel and no graph is used.
SWITCH = "QAMRO_KERNELS"
_PACKAGE = Path(__file__).parent
_KERNELS = ("losses/fused.py", "training/check.py", "training/gpu/*.py")

#: Why no kernel is used in this process any more, if so.
_given_up: list[str] = []

#: What a child said of a family: its largest error, its seconds, and what is wrong, if anything.
Verdict = dict[str, Any]


def usable(family: str, device: torch.device) -> bool:
    """Return whether a family of kernels may run on a device.

    The first question for a device may take a minute, in another process; later ones take nothing.
    On a CPU only Triton's interpreter runs kernels, slowly, for tests.
    """
    if switched_off() or _given_up:
        return False
    if device.type != "cuda":
        return interpreted() and device.type == "cpu" and family != "graph"
    index = torch.cuda.current_device() if device.index is None else device.index
    return _agreed(family, index)


def switched_off() -> bool:
    """Whether the user wants plain torch, nothing compiled."""
    return os.environ.get(SWITCH) == "0"


def give_up(reason: str) -> None:
    """Use no kernel in this process any more: one failed on shapes that it was not tried on."""
    _given_up.append(reason)
    said = (reason.strip().splitlines() or [""])[0]
    logger.warning("a kernel failed (%s); going on in plain torch, more slowly", said[:200])


def interpreted() -> bool:
    """Whether Triton interprets its kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def verdicts(index: int) -> dict[str, Verdict]:
    """Return what is known of every family on a GPU: from the user's cache folder, or found now."""
    identity = _identity(index)
    path = (
        verdict_folder() / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.json"
    )
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())["families"]
        if all(isinstance(found[family]["problem"], str) for family in FAMILIES):
            return dict(found)
    logger.info("trying the kernels on %s; once, up to a minute", identity["device"])
    found = try_families(f"cuda:{index}")
    if not any(verdict.get("passing") for verdict in found.values()):
        with suppress(Exception):  # a folder that cannot be written: asked again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"identity": identity, "families": found})
    return found


def try_families(device: str, families: Sequence[str] = FAMILIES) -> dict[str, Verdict]:
    """Try families in a child; what it does not try is plain torch there."""
    return try_each(CHECKER, device, families, {SWITCH: "0"})


def try_each(
    checker: str, device: str, families: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Verdict]:
    """Let a module try things in a child; one that kills it is to blame, the others get another."""
    found: dict[str, Verdict] = {}
    while left := [family for family in families if family not in found]:
        lines, end = _child([checker, device, *left], environment)
        if not lines:
            # The device could not be reached from there: says nothing about a kernel.
            return {**{one: {"problem": end, "passing": True} for one in left}, **found}
        told = {line["family"]: line for line in lines[1:]}
        found |= told
        if blamed := [family for family in left if family not in told][:1]:
            found[blamed[0]] = {"problem": end}
    return found


@functools.cache
def _agreed(family: str, index: int) -> bool:
    problem = _verdicts(index)[family]["problem"]
    if problem:
        logger.warning(
            "%s: its kernels for %r are not used (%s); plain torch computes the same, more slowly",
            torch.cuda.get_device_name(index), family, problem,
        )  # fmt: skip
    return not problem


_verdicts = functools.cache(verdicts)


def _child(arguments: Sequence[str], given: Mapping[str, str]) -> tuple[list[Any], str]:
    """Return the lines that a child wrote, and how it ended."""
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **given, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Files, not pipes: a compiler that outlives the child would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            code = subprocess.run(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
                timeout=PATIENCE, check=False,
            ).returncode  # fmt: skip
            end = f"it ended the process with code {code}"
        except subprocess.TimeoutExpired:
            end = f"not done after {PATIENCE} s"
        except OSError as error:
            end = f"no process for it: {error}"
        out.seek(0)
        err.seek(0)
        lines = []
        for line in out.read().decode(errors="replace").splitlines():
            with suppress(ValueError):  # cut short
                lines.append(json.loads(line))
        said = err.read().decode(errors="replace").strip().splitlines()
    return lines, f"{end}: {said[-1][:200]}" if said else end


def software() -> dict[str, Any]:
    """Return what kernels are compiled with and run on, the GPU apart."""
    driver = ""
    with suppress(OSError):
        driver = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    triton = None
    with suppress(PackageNotFoundError):
        triton = version("triton")
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return {
        "driver": driver,
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
        # Triton compiles a launcher on the spot.
        "compiler": next(filter(None, map(shutil.which, filter(None, compilers))), None),
        "headers": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
    }


def _identity(index: int) -> dict[str, Any]:
    """Return all that a verdict depends on."""
    code = hashlib.sha256()
    for pattern in _KERNELS:
        for path in sorted(_PACKAGE.glob(pattern)):
            code.update(path.read_bytes())
    return {
        "device": torch.cuda.get_device_name(index),
        "capability": list(torch.cuda.get_device_capability(index)),
        **software(),
        "kernels": code.hexdigest(),
    }


def verdict_folder() -> Path:
    """Return where verdicts are kept, whether or not it is there."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "qamro-cache" / "kernels"
