"""The head file: everything a prediction needs, in one safetensors file without code in it."""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.heads.network import Architecture, parameter_shapes
from qamro_cache.heads.ood import Reference
from qamro_cache.identity import canonical_json

FORMAT = "qamro-head"
FORMAT_VERSION = 1


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


def save_head(path: Path, head: Head) -> None:
    """Write a head under a temporary name, flush it to disk and rename it."""
    from safetensors.torch import save

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
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    record = canonical_json(
        {
            "architecture": asdict(head.architecture),
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
            "ood": reference.threshold if math.isfinite(reference.threshold) else None,
            "training": head.training,
        }
    )
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "record": record,
        "sha256": _checksum(record, tensors),
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(save(tensors, metadata=metadata))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def load_head(path: Path) -> Head:
    """Read a head file, which may come from a stranger.

    Raises:
        QamroError: the file is missing, no head, damaged, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise QamroError(f"{path}: no such head file; qamro-train writes one as head.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise QamroError(f"{path} is not a head file of qamro-train")
            if metadata.get("format_version") != str(FORMAT_VERSION):
                raise QamroError(
                    f"{path}: head format {metadata.get('format_version')!r} is not "
                    f"{FORMAT_VERSION}; use the version of qamro_cache that wrote it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _checksum(metadata["record"], tensors):
            raise QamroError(f"{path}: its checksum is wrong: the file is damaged")
        return _from_record(json.loads(metadata["record"]), tensors)
    except (
        SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        kind = type(error).__name__
        raise QamroError(f"{path} is damaged or not a head file ({kind}: {error})") from error


def _from_record(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Head:
    architecture = Architecture(**record["architecture"])
    row = tuple(int(size) for size in record["row"])
    axes = []
    for index, entry in enumerate(record["axes"]):
        seeds = tuple(int(seed) for seed in entry["seeds"])
        params = {}
        for name, shape in parameter_shapes(architecture, row).items():
            params[name] = _tensor(tensors, f"{index}/params/{name}", (len(seeds), *shape))
        one = AxisHead(
            axis=_axis(**entry["axis"]),
            seeds=seeds,
            params=params,
            label_mean=float(entry["label_mean"]),
            label_std=float(entry["label_std"]),
        )
        if not (math.isfinite(one.label_mean) and 0 < one.label_std < math.inf and seeds):
            raise ValueError(f"labels of axis {one.axis.name!r} have no usable mean and std")
        if f"{index}/row_mean" in tensors:
            row_mean = _tensor(tensors, f"{index}/row_mean", row[-1:])
            row_std = _tensor(tensors, f"{index}/row_std", row[-1:])
            if not (row_std > 0).all():
                raise ValueError("a feature's std is not positive")
            one = AxisHead(**{**vars(one), "row_mean": row_mean, "row_std": row_std})
        axes.append(one)
    width = tensors["reference/mean"].numel()
    clips = tensors["reference/clips"]
    reference = Reference(
        clips=_tensor(tensors, "reference/clips", (len(clips), width)),
        mean=_tensor(tensors, "reference/mean", (width,)),
        std=_tensor(tensors, "reference/std", (width,)),
        threshold=math.inf if record["ood"] is None else float(record["ood"]),
    )
    if not (isinstance(record["identity"], dict) and isinstance(record["training"], dict)):
        raise ValueError("identity or training is no record")
    return Head(
        architecture=architecture,
        row=row,
        feature=str(record["feature"]),
        text_feature=str(record["text_feature"]),
        identity=record["identity"],
        axes=tuple(axes),
        reference=reference,
        training=record["training"],
    )


def _axis(name: object, low: object, high: object) -> Axis:
    if not (isinstance(name, str) and all(isinstance(end, int | float) for end in (low, high))):
        raise ValueError(f"axis {name!r} from {low!r} to {high!r} is no name with two numbers")
    axis = Axis(name, float(low), float(high))  # type: ignore[arg-type]
    if not -math.inf < axis.low < axis.high < math.inf:
        raise ValueError(f"axis {name!r} from {low!r} to {high!r} is no range")
    return axis


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    value = tensors[name]
    if tuple(value.shape) != shape or not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype} {list(value.shape)}, not a float {list(shape)}")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    return value


def _checksum(record: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
