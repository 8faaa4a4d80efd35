"""The head file: everything a prediction needs, in one safetensors file without code in it."""

import hashlib
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qamro_cache.errors import QamroError, words_of
from qamro_cache.files import replacing
from qamro_cache.heads.ensemble import (
    blank_ensemble,
    ensemble_record,
    ensemble_tensors,
    filled_ensemble,
)
from qamro_cache.heads.head import AnyHead, Ensemble, Head
from qamro_cache.heads.header import Header, in_order, read_header
from qamro_cache.heads.names import head_path
from qamro_cache.heads.record import blank_head, filled_head, record_of, tensors_of
from qamro_cache.identity import canonical_json, strict_json
from qamro_cache.paths import PathLike, as_path

#: Of a head, and of an ensemble of them.
FORMAT, ENSEMBLE_FORMAT = "qamro-head", "qamro-ensemble"
FORMAT_VERSION = 1


def save_head(path: PathLike, head: AnyHead) -> None:
    """Write a head, or an ensemble: whole, on disk and read back, or not at all.

    Raises:
        QamroError: it cannot be written, or is larger than a head file can be.
    """
    from safetensors.torch import save

    tensors = _apart(_tensors(head))
    record = canonical_json(head_record(head))
    metadata = {
        "format": ENSEMBLE_FORMAT if isinstance(head, Ensemble) else FORMAT,
        "format_version": str(FORMAT_VERSION),
        "record": record,
        "sha256": checksum(record, tensors),
    }
    with replacing(as_path(path)) as temporary:
        temporary.write_bytes(in_order(save(tensors, metadata=metadata)))
        load_head(temporary)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of which no two share memory, as safetensors asks: axes or members may."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in seen else plain
        seen.add(place)
    return found


def load_head(path: PathLike | AnyHead) -> AnyHead:
    """Read a head file, which may come from a stranger; a head is returned as it is.

    Its header, its record and the shape of every tensor are checked before memory is taken for
    the tensors; docs/training.md has the format.

    Args:
        path: the file, the folder of a qamro-train run, or a name of `list_heads`.

    Raises:
        QamroError: the file is missing, no head, damaged, or of another format.
    """
    if isinstance(path, Head | Ensemble):
        return path
    path = head_path(path)
    try:
        with path.open("rb") as file:
            header = read_header(file)
            metadata = header.metadata
            if metadata.get("format") not in (FORMAT, ENSEMBLE_FORMAT):
                raise QamroError(f"{path} is not a head file of qamro-train")
            several = metadata["format"] == ENSEMBLE_FORMAT
            if metadata.get("format_version") != str(FORMAT_VERSION):
                raise QamroError(
                    f"{path}: head format {metadata.get('format_version', '')[:20]!r} is not "
                    f"{FORMAT_VERSION}; use the version of qamro_cache that wrote it"
                )
            record = strict_json(metadata["record"])
            blank: AnyHead = (blank_ensemble if several else blank_head)(record, header)
            tensors = _read_tensors(file, blank, header)
        head = _filled(blank, tensors)
        if metadata["sha256"] != checksum(metadata["record"], tensors):
            raise ValueError("its checksum is wrong")
        if canonical_json(head_record(head)) != metadata["record"]:
            raise ValueError("its record has a value of another type or one too many")
        return head
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    except (
        KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError
    ) as error:  # fmt: skip
        raise QamroError(f"{path} is damaged or not a head file ({words_of(error)})") from error


def _tensors(head: AnyHead) -> dict[str, Tensor]:
    return ensemble_tensors(head) if isinstance(head, Ensemble) else tensors_of(head)


def head_record(head: AnyHead) -> dict[str, Any]:
    """Return everything of a head, or an ensemble, but its tensors: JSON types."""
    return ensemble_record(head) if isinstance(head, Ensemble) else record_of(head)


def _filled(blank: AnyHead, tensors: Mapping[str, Tensor]) -> AnyHead:
    if isinstance(blank, Ensemble):
        return filled_ensemble(blank, tensors)
    return filled_head(blank, tensors)


def _read_tensors(file: BinaryIO, blank: AnyHead, header: Header) -> dict[str, Tensor]:
    """Read the tensors if they are those of the record."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    types = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}
    expected = {n: (types[v.dtype], tuple(v.shape)) for n, v in _tensors(blank).items()}
    for name in sorted(expected.keys() | header.tensors.keys()):
        ours, theirs = expected.get(name), header.tensors.get(name)
        if ours != theirs:
            raise ValueError(f"{name[:60]} is {theirs or 'not there'}, the record wants {ours}")
    file.seek(0)
    try:
        tensors = load(file.read())
    except SafetensorError as error:
        raise ValueError(words_of(error)) from error
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
        if name.endswith("std") and not (value > 0).all():
            raise ValueError(f"{name} is not positive everywhere")
    return tensors


def checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a text, and of each tensor by name with its type and shape."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
