"""A head as a JSON record and tensors by name, and back: a stranger's is taken apart with care."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from types import UnionType
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor

from qamro_cache.audio.fingerprint import SHORT_WIDTH
from qamro_cache.datasets.records import Axis
from qamro_cache.files import json_text
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.head import AS_IT_IS, AxisHead, Head
from qamro_cache.heads.header import Header
from qamro_cache.heads.network import input_width, parameter_shapes
from qamro_cache.heads.ood import Reference
from qamro_cache.heads.trained import SIGNATURE, Trained
from qamro_cache.identity import check_identity

#: Most axes, and most hidden layers.
MAX_AXES, MAX_WIDTHS = 1000, 30


def tensors_of(head: Head) -> dict[str, Tensor]:
    """Return every tensor of a head by its name in the file."""
    tensors = _tensors_of_reference("reference", head.reference)
    for index, one in enumerate(head.axes):
        tensors |= {f"{index}/params/{name}": value for name, value in one.params.items()}
        if one.row_mean is not None and one.row_std is not None:
            tensors |= {f"{index}/row_mean": one.row_mean, f"{index}/row_std": one.row_std}
        if one.reference is not None:
            tensors |= _tensors_of_reference(f"{index}/reference", one.reference)
    if head.trained is not None:
        parts = {name: getattr(head.trained, name) for name in ("audio", "axes", "frames", "sound")}
        tensors |= {f"trained/{name}": part for name, part in parts.items() if part is not None}
    return tensors


def _tensors_of_reference(name: str, reference: Reference) -> dict[str, Tensor]:
    return {f"{name}/{part}": getattr(reference, part) for part in ("clips", "mean", "std")}


def _finite(threshold: float) -> float | None:
    """Return a threshold for JSON, which has no infinity."""
    return threshold if math.isfinite(threshold) else None


def _blank_reference(name: str, threshold: Any, header: Header) -> Reference:
    size, width = header.tensors[f"{name}/clips"][1]
    far = math.inf if threshold is None else float(threshold)
    clips = _nothing(size, width, dtype=torch.float16)
    return Reference(clips, _nothing(width), _nothing(width), far)


def _filled_reference(name: str, blank: Reference, tensors: Mapping[str, Tensor]) -> Reference:
    clips, mean, std = (tensors[f"{name}/{part}"] for part in ("clips", "mean", "std"))
    return Reference(clips, mean, std, blank.threshold)


def record_of(head: Head) -> dict[str, Any]:
    """Return everything of a head but its tensors: JSON types."""
    plain = {name: getattr(head, name) for name in _plain_fields()}
    plain = {n: dict(v) if isinstance(v, Mapping) else v for n, v in plain.items() if v is not None}
    return {
        **json.loads(json_text(plain)),
        "architecture": {**asdict(head.architecture), "widths": list(head.architecture.widths)},
        "row": list(head.row),
        "axes": [
            {
                "axis": asdict(one.axis),
                "seeds": list(one.seeds),
                "label_mean": one.label_mean,
                "label_std": one.label_std,
                **({} if one.reference is None else {"ood": _finite(one.reference.threshold)}),
            }
            for one in head.axes
        ],
        "ood": _finite(head.reference.threshold),
    }


def _plain_fields() -> dict[str, Any]:
    """Return the fields that stand in a record as they are, and what `isinstance` asks of each."""
    hints = get_type_hints(Head)
    names = [one.name for one in fields(Head) if one.metadata == AS_IT_IS]
    return {
        n: hints[n] if isinstance(hints[n], UnionType) else get_origin(hints[n]) or hints[n]
        for n in names
    }


def blank_head(record: Mapping[str, Any], header: Header) -> Head:
    """Return a head of a record, with tensors of the right shapes that take no memory."""
    architecture = _architecture(record["architecture"])
    row = tuple(record["row"])
    kinds = _plain_fields()
    plain = {name: record[name] for name in kinds if name in record}
    for name, value in plain.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"its {name} is of another type")
    identity, feature, text = plain["identity"], plain["feature"], plain["text_feature"]
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
                reference=_blank_reference(f"{index}/reference", entry["ood"], header)
                if "ood" in entry
                else None,
            )
        )
        if not (math.isfinite(axes[-1].label_mean) and 0 < axes[-1].label_std < math.inf and seeds):
            raise ValueError(f"labels of axis {index} have no usable mean and std")
    reference = _blank_reference("reference", record["ood"], header)
    trained = _blank_trained(len(axes), header) if "trained/audio" in header.tensors else None
    return Head(architecture, row, axes=tuple(axes), reference=reference, trained=trained, **plain)


def _blank_trained(axes: int, header: Header) -> Trained:
    clips, *_ = header.tensors["trained/audio"][1]
    shapes: list[tuple[int, ...]] = [(clips, *SIGNATURE), (clips, axes)]
    if "trained/sound" in header.tensors:
        frames, *_ = header.tensors["trained/sound"][1]
        shapes += [(clips,), (frames, SHORT_WIDTH)]
    return Trained(*(_nothing(*shape, dtype=torch.uint8) for shape in shapes))


def _filled_trained(tensors: Mapping[str, Tensor]) -> Trained:
    names = ("audio", "axes", "frames", "sound")
    trained = Trained(**{n: tensors[f"trained/{n}"] for n in names if f"trained/{n}" in tensors})
    frames, sound = trained.frames, trained.sound
    if frames is not None and sound is not None and int(frames.sum()) != len(sound):
        raise ValueError("its fingerprints are not as many as it says")
    return trained


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


def filled_head(blank: Head, tensors: Mapping[str, Tensor]) -> Head:
    """Return a blank head with its tensors."""
    axes = []
    for index, one in enumerate(blank.axes):
        params = {name: tensors[f"{index}/params/{name}"] for name in one.params}
        mean, std = tensors.get(f"{index}/row_mean"), tensors.get(f"{index}/row_std")
        own = one.reference
        if own is not None:
            own = _filled_reference(f"{index}/reference", own, tensors)
        axes.append(replace(one, params=params, row_mean=mean, row_std=std, reference=own))
    reference = _filled_reference("reference", blank.reference, tensors)
    trained = None if blank.trained is None else _filled_trained(tensors)
    return replace(blank, axes=tuple(axes), reference=reference, trained=trained)


def _axis(name: object, low: object, high: object, guessed: bool) -> Axis:
    ends = all(isinstance(end, int | float) for end in (low, high))
    if not (isinstance(name, str) and ends and isinstance(guessed, bool)):
        raise ValueError("an axis is no name with two numbers")
    axis = Axis(name, float(low), float(high), guessed)  # type: ignore[arg-type]
    if not -math.inf < axis.low < axis.high < math.inf:
        raise ValueError(f"axis {name[:40]!r} from {axis.low} to {axis.high} is no range")
    return axis
