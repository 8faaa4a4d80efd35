"""Checkpoints of others: read without running their code, and load with nothing left over."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qamro_cache.errors import QamroError, words_of


def read_checkpoint(path: Path, allow_pickle: bool = False) -> Any:
    """Read a file that ``torch.save`` wrote: tensors, containers and numpy scalars only.

    Training programs leave numpy scalars (a loss, an epoch) beside the weights; they hold no
    code, so they pass. Any other type is refused by name unless ``allow_pickle``, which lets the
    file run whatever code its author put in.

    Raises:
        QamroError: no such file, not a checkpoint, or types that could run code.
    """
    if not path.is_file():
        raise QamroError(f"checkpoint {path} is not a file; check --checkpoint")
    # Mapping leaves an optimizer's state, often the larger part of a file, on the disk.
    mapped = zipfile.is_zipfile(path)
    harmless = [(_numpy_scalar(), name) for name in _SCALAR_NAMES]
    kinds = {type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "b1")}
    try:
        with torch.serialization.safe_globals([*harmless, *_DTYPE_NAMES, *kinds]):
            return torch.load(path, "cpu", weights_only=not allow_pickle, mmap=mapped)
    except Exception as error:  # torch.load raises several kinds, some of them undocumented
        refused = "" if allow_pickle else _unsafe_types(path)
        if refused:
            raise QamroError(
                f"checkpoint {path} holds Python objects that could run code: {refused}; "
                "if you trust where it comes from, allow it with --allow-pickle"
            ) from error
        reason = words_of(error)
        raise QamroError(f"checkpoint {path} cannot be read ({reason}); fetch it again") from error


_SCALAR_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_DTYPE_NAMES: list[Any] = [(np.dtype, "numpy.dtype")]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the other form of weights that a hub keeps; it can hold no code."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise QamroError(f"checkpoint {path} cannot be read ({error}); fetch it again") from error


def _numpy_scalar() -> Any:
    """The function by which numpy scalars are unpickled, whichever numpy this is."""
    return np.float64(0).__reduce__()[0]


def _unsafe_types(path: Path) -> str:
    """Name the types in ``path`` that safe unpickling refuses; empty when that is not the cause."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a checkpoint at all
        return ""
    known = {*_SCALAR_NAMES, "numpy.dtype"}
    return ", ".join(name for name in sorted(found) if name not in known)


def state_dict_of(checkpoint: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, from under ``state_dict`` if they are there.

    The ``module.`` that a parallel wrapper puts before every name is taken away.
    """
    state = checkpoint
    if isinstance(checkpoint, Mapping) and "state_dict" in checkpoint:
        state = checkpoint["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise QamroError(f"checkpoint {path} holds no state_dict of tensors; is it another file?")
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Copy ``state`` into ``module``; every missing, unexpected or misshapen name is an error."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {list(state[name].shape)}, not {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("tensors missing", missing),
            ("tensors unexpected", unexpected),
            ("shapes differ", sorted(shapes)),
        )
        if names
    ]
    if problems:
        raise QamroError(f"checkpoint {path} does not fit {what}: {'; '.join(problems)}")
    module.load_state_dict(state)
