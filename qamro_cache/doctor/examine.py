"""Look at this machine once: what is here, which kernels agree, and how fast everything is."""

import importlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qamro_cache.doctor.advice import advice
from qamro_cache.errors import QamroError, words_of
from qamro_cache.extraction.units import available_processors
from qamro_cache.memory import free_memory
from qamro_cache.version import __version__

logger = logging.getLogger("qamro_cache")

PROBES = "qamro_cache.doctor.probes"
ON_CPU: tuple[str, ...] = ("copy", "products", "step float32", "decode")
ON_GPU = ("copy", "transfer", "products", "graph", "compile", "step float32", "decode")
#: Where a GPU has arithmetic for them.
ON_NEW_GPU = (*ON_GPU, "step tf32", "step bf16")
#: What setup.cfg asks for.
PACKAGES = (
    "torch", "h5py", "numpy", "scipy", "pandas", "regex", "click", "rich", "safetensors", "xxhash",
    "soundfile", "soxr", "jinja2",
)  # fmt: skip


def doctor() -> dict[str, Any]:
    """Examine this machine in about half a minute; one more where kernels are tried first.

    Returns:
        JSON types: what is here (``machine``), the ``gpus`` and why there is none, the ``device``
        that was measured, the verdict on each family of ``kernels``, what was ``measured`` (in
        other processes: what fails there is a ``problem``) and ``advice``, a line each.

    Raises:
        QamroError: PyTorch cannot be loaded.
    """
    try:
        importlib.import_module("torch")
    except Exception as error:  # of its libraries too
        said = words_of(error)
        raise QamroError(f"PyTorch cannot be loaded ({said}); install it anew") from error
    from qamro_cache.self_check import try_each

    logger.info("measuring this machine; half a minute, more where kernels are tried first")
    found = _gpus()
    gpus = found.get("gpus", [])
    kernels = _kernels() if gpus else {}
    device, names = "cpu", ON_CPU
    if gpus:
        device = "cuda:0"
        names = ON_NEW_GPU if float(gpus[0]["capability"]) >= 8 else ON_GPU
    record = {
        "qamro_cache": __version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "gpus": gpus,
        "gpu_problem": found["problem"],
        "device": device,
        "kernels": kernels,
        "measured": _named(try_each(PROBES, device, names, {})),
    }
    return {**record, "advice": list(advice(record))}


def machine() -> dict[str, Any]:
    """Return what is here, GPUs apart."""
    import torch

    from qamro_cache.self_check import software, verdict_folder

    folder = verdict_folder()
    return {
        **software(),
        # Of a build for processors alone: none.
        "torch_gpu": torch.version.cuda or torch.version.hip,
        "system": platform.platform(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": available_processors(),
        "threads": torch.get_num_threads(),
        "free_memory_bytes": free_memory(),
        "missing": [name for name in PACKAGES if find_spec(name) is None],
        "cache_folder": str(folder),
        "cache_problem": _why_not_writable(folder),
    }


def _gpus() -> Mapping[str, Any]:
    import torch

    from qamro_cache.self_check import try_each

    if not (torch.version.cuda or torch.version.hip):
        return {"problem": "this build of PyTorch is for processors alone"}
    # A driver that is broken may end the process, or never answer.
    return _named(try_each(PROBES, "cpu", ["gpus"], {}))["gpus"]


def _kernels() -> dict[str, dict[str, Any]]:
    from qamro_cache.self_check import FAMILIES, SWITCH, switched_off, verdicts

    if switched_off():
        return {name: {"problem": f"switched off by {SWITCH}=0"} for name in FAMILIES}
    try:
        return _named(verdicts(0))
    except Exception as error:  # the driver's, in this process
        return {name: {"problem": words_of(error)} for name in FAMILIES}


def _named(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out of each verdict the name under which it stands."""
    return {
        name: {key: value for key, value in verdict.items() if key != "family"}
        for name, verdict in found.items()
    }


def _processor() -> str:
    with suppress(OSError):
        return next(_models(Path("/proc/cpuinfo").read_text()), platform.machine())
    return platform.machine()


def _models(text: str) -> Iterator[str]:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            yield value.strip()


def _why_not_writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(1))
    except OSError as error:
        return words_of(error)
    return ""
