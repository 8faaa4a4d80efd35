"""The head file: everything a prediction needs, in one safetensors file without code in it."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError, words_of
from qamro_cache.files import PathLike, as_path, json_text, replacing
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.header import Header, read_header
from qamro_cache.heads.network import input_width, parameter_shapes
from qamro_cache.heads.ood import Reference
from qamro_cache.identity import canonical_json, check_identity, strict_json

FORMAT = "qamro-head"
FORMAT_VERSION = 1
#: Most axes, and most hidden layers.
MAX_AXES, MAX_WIDTHS = 1000, 30


@dataclass(frozen=True)
class AxisHead:
    """The members of one axis: M heads of one shape, whose scores are averaged.

    Attributes:
        axis: name and range of the scores.
        seeds: M seeds, a member each.
        params: name -> [M, ...], as `heads.network.init_params` lays them out; they take
            standardized rows and give standardized scores.
        label_mean: score = label_mean + label_std * output.
        label_std: as above, in the axis' units, positive.
        row_mean: [D] subtracted from a row; None where the head takes rows as they are.
        row_std: [D] by which the difference is divided; None with ``row_mean``.
    """

    axis: Axis
    seeds: tuple[int, ...]
    params: Mapping[str, Tensor]
    label_mean: float
    label_std: float
    row_mean: Tensor | None = None
    row_std: Tensor | None = None

    @property
    def bounds(self) -> Tensor:
        """The axis' range in standardized units [M, 2], for a bounded output."""
        ends = [(end - self.label_mean) / self.label_std for end in (self.axis.low, self.axis.high)]
        return torch.tensor([ends]).expand(len(self.seeds), 2)


@dataclass(frozen=True)
class Head:
    """What `save_head` keeps.

    Attributes:
        architecture: the same for all axes.
        row: shape of one row that the heads see ([D], or [L, D] of cached layers).
        feature: name of the audio feature in the cache.
        text_feature: name of the prompt's feature; empty for a head on audio alone.
        identity: of the cache it was trained on; predicting from any other is refused.
        axes: one `AxisHead` an axis.
        reference: clips of the training set, to tell whether a new one is out of distribution.
        training: how it was trained: dataset, settings, synthetic or not, versions. JSON types.
    """

    architecture: Architecture
    row: tuple[int, ...]
    feature: str
    text_feature: str
    identity: Mapping[str, Any]
    axes: tuple[AxisHead, ...]
    reference: Reference
    training: Mapping[str, Any] = field(default_factory=dict)


def save_head(path: PathLike, head: Head) -> None:
    """Write a head: whole, on disk and read back, or not at all.

    Raises:
        QamroError: it cannot be written, or is larger than a head file can be.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(head).items()}
    record = canonical_json(_record(head))
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "record": record,
        "sha256": _checksum(record, tensors),
    }
    with replacing(as_path(path)) as temporary:
        temporary.write_bytes(save(tensors, metadata=metadata))
        load_head(temporary)


def load_head(path: PathLike | Head) -> Head:
    """Read a head file, which may come from a stranger; a head is returned as it is.

    Its header, its record and the shape of every tensor are checked before memory is taken for
    the tensors; docs/training.md has the format.

    Raises:
        QamroError: the file is missing, no head, damaged, or of another format.
    """
    if isinstance(path, Head):
        return path
    path = as_path(path, "a head")
    if not path.is_file():
        raise QamroError(f"{path}: no such head file; qamro-train writes one as head.safetensors")
    try:
        with path.open("rb") as file:
            header = read_header(file)
            metadata = header.metadata
            if metadata.get("format") != FORMAT:
                raise QamroError(f"{path} is not a head file of qamro-train")
            if metadata.get("format_version") != str(FORMAT_VERSION):
                raise QamroError(
                    f"{path}: head format {metadata.get('format_version', '')[:20]!r} is not "
                    f"{FORMAT_VERSION}; use the version of qamro_cache that wrote it"
                )
            record = strict_json(metadata["record"])
            blank = _blank(record, header)
            tensors = _read_tensors(file, blank, header)
        head = _filled(blank, tensors)
        if metadata["sha256"] != _checksum(metadata["record"], tensors):
            raise ValueError("its checksum is wrong")
        if canonical_json(_record(head)) != metadata["record"]:
            raise ValueError("its record has a value of another type or one too many")
        return head
    except OSError as error:
        raise QamroError(f"{path} cannot be read: {words_of(error)}") from error
    except (
        KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError
    ) as error:  # fmt: skip
        raise QamroError(f"{path} is damaged or not a head file ({words_of(error)})") from error


def _tensors(head: Head) -> dict[str, Tensor]:
    """Return every tensor of a head by its name in the file."""
    reference = head.reference
    tensors = {
        "reference/clips": reference.clips,
        "reference/mean": reference.mean,
        "reference/std": reference.std,
    }
    for index, one in enumerate(head.axes):
        tensors |= {f"{index}/params/{name}": value for name, value in one.params.items()}
        if one.row_mean is not None and one.row_std is not None:
            tensors |= {f"{index}/row_mean": one.row_mean, f"{index}/row_std": one.row_std}
    return tensors


def _record(head: Head) -> dict[str, Any]:
    """Return everything of a head but its tensors: JSON types."""
    threshold = head.reference.threshold
    return {
        "architecture": {**asdict(head.architecture), "widths": list(head.architecture.widths)},
        "row": list(head.row),
        "feature": head.feature,
        "text_feature": head.text_feature,
        "identity": head.identity,
        "axes": [
            {
                "axis": asdict(one.axis),
                "seeds": list(one.seeds),
                "label_mean": one.label_mean,
                "label_std": one.label_std,
            }
            for one in head.axes
        ],
        # JSON has no infinity.
        "ood": threshold if math.isfinite(threshold) else None,
        "training": json.loads(json_text(dict(head.training))),
    }


def _blank(record: Mapping[str, Any], header: Header) -> Head:
    """Return a head of a record, with tensors of the right shapes that take no memory."""
    architecture = _architecture(record["architecture"])
    row = tuple(record["row"])
    identity, feature, text = record["identity"], record["feature"], record["text_feature"]
    check_identity(identity)
    width = identity["text_features"][text][0] if text else 0
    if row != input_width(architecture, identity["features"][feature], width):
        raise ValueError(f"rows {list(row)[:8]} are not those of feature {str(feature)[:40]!r}")
    entries = record["axes"]
    if not 1 <= len(entries) <= MAX_AXES:
        raise ValueError(f"it has no axis, or more than {MAX_AXES}")
    if len({entry["axis"]["name"] for entry in entries}) < len(entries):
        raise ValueError("two axes have one name")
    shapes = parameter_shapes(architecture, row)
    axes = []
    for index, entry in enumerate(entries):
        seeds = tuple(entry["seeds"])
        if not all(type(seed) is int for seed in seeds):
            raise ValueError("a seed is no whole number")
        has_rows = f"{index}/row_mean" in header.tensors
        axes.append(
            AxisHead(
                axis=_axis(**entry["axis"]),
                seeds=seeds,
                params={n: _nothing(len(seeds), *shape) for n, shape in shapes.items()},
                label_mean=float(entry["label_mean"]),
                label_std=float(entry["label_std"]),
                row_mean=_nothing(row[-1]) if has_rows else None,
                row_std=_nothing(row[-1]) if has_rows else None,
            )
        )
        if not (math.isfinite(axes[-1].label_mean) and 0 < axes[-1].label_std < math.inf and seeds):
            raise ValueError(f"labels of axis {index} have no usable mean and std")
    size, width = header.tensors["reference/clips"][1]
    threshold = math.inf if record["ood"] is None else float(record["ood"])
    reference = Reference(
        _nothing(size, width, dtype=torch.float16), _nothing(width), _nothing(width), threshold
    )
    return Head(
        architecture, row, feature, text, identity, tuple(axes), reference, record["training"]
    )


def _architecture(record: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a record, each field of the type that it has by default."""
    usual = {**asdict(Architecture()), "widths": []}
    if record.keys() != usual.keys() or len(record["widths"]) > MAX_WIDTHS:
        raise ValueError("its architecture has other fields than this format's")
    for name, value in record.items():
        if type(value) is not type(usual[name]):
            raise ValueError(f"its architecture's {name} is of another type")
    if not all(type(width) is int for width in record["widths"]):
        raise ValueError("a width is no whole number")
    return Architecture(**record)


def _nothing(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _read_tensors(file: BinaryIO, blank: Head, header: Header) -> dict[str, Tensor]:
    """Read the tensors if they are those of the record."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    types = {torch.float32: "F32", torch.float16: "F16"}
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


def _filled(blank: Head, tensors: Mapping[str, Tensor]) -> Head:
    """Return a blank head with its tensors."""
    axes = []
    for index, one in enumerate(blank.axes):
        params = {name: tensors[f"{index}/params/{name}"] for name in one.params}
        mean, std = tensors.get(f"{index}/row_mean"), tensors.get(f"{index}/row_std")
        axes.append(replace(one, params=params, row_mean=mean, row_std=std))
    clips, mean, std = (tensors[f"reference/{name}"] for name in ("clips", "mean", "std"))
    reference = Reference(clips, mean, std, blank.reference.threshold)
    return replace(blank, axes=tuple(axes), reference=reference)


def _axis(name: object, low: object, high: object, guessed: bool) -> Axis:
    ends = all(isinstance(end, int | float) for end in (low, high))
    if not (isinstance(name, str) and ends and isinstance(guessed, bool)):
        raise ValueError("an axis is no name with two numbers")
    axis = Axis(name, float(low), float(high), guessed)  # type: ignore[arg-type]
    if not -math.inf < axis.low < axis.high < math.inf:
        raise ValueError(f"axis {name[:40]!r} from {axis.low} to {axis.high} is no range")
    return axis


def _checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
