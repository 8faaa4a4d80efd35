"""A head as a JSON record and tensors by name, and back: a stranger's is taken apart with care."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import OptionError
from qamro_cache.features.context import Context, times
from qamro_cache.features.expression import (
    CONTEXTS,
    Call,
    Expression,
    parse,
    projections,
    refuse_pooling,
)
from qamro_cache.features.lookup import resolved, shape_of, used, widths
from qamro_cache.features.vectors import Projection
from qamro_cache.files import json_text
from qamro_cache.heads.architecture import KEEP_CLIPS, Architecture
from qamro_cache.heads.calibration import check_calibration
from qamro_cache.heads.head import AS_IT_IS, AxisHead, Head, preference_of
from qamro_cache.heads.header import Header
from qamro_cache.heads.network import input_width
from qamro_cache.heads.ood import Reference
from qamro_cache.heads.parameters import parameter_shapes
from qamro_cache.heads.scales import scales_of
from qamro_cache.heads.trained import blank_trained, filled_trained, tensors_of_trained
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
        for number, projection in enumerate(one.projections.values()):
            for part, value in projection._asdict().items():
                tensors[f"{index}/projections/{number}/{part}"] = value
        if one.reference is not None:
            tensors |= _tensors_of_reference(f"{index}/reference", one.reference)
    return {**tensors, **tensors_of_trained(head.trained)}


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
        **json.loads(json_text(plain, None)),
        "architecture": {**asdict(head.architecture), "widths": list(head.architecture.widths)},
        "row": list(head.row),
        "identities": list(head.identities),
        **({} if head.context is None else {"context": head.context._asdict()}),
        "axes": [
            {
                "axis": asdict(one.axis),
                "seeds": list(one.seeds),
                "label_mean": one.label_mean,
                "label_std": one.label_std,
                **({} if one.reference is None else {"ood": _finite(one.reference.threshold)}),
                **({} if one.preference is None else {"preference": one.preference._asdict()}),
                **({} if not one.scales else {"scales": dict(one.scales), "source": one.source}),
            }
            for one in head.axes
        ],
        "ood": _finite(head.reference.threshold),
    }


def _plain_fields() -> dict[str, Any]:
    """Return the fields that stand in a record as they are, and what `isinstance` asks of each."""
    hints = get_type_hints(Head)
    names = [one.name for one in fields(Head) if one.metadata == AS_IT_IS]
    found = {}
    for name in names:
        hint = hints[name]
        parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        found[name] = tuple(get_origin(one) or one for one in parts)
    return found


def blank_head(record: Mapping[str, Any], header: Header) -> Head:
    """Return a head of a record, with tensors of the right shapes that take no memory."""
    architecture = _architecture(record["architecture"])
    row = tuple(record["row"])
    kinds = _plain_fields()
    plain = {name: record[name] for name in kinds if name in record}
    for name, value in plain.items():
        if not isinstance(value, kinds[name]):
            raise ValueError(f"its {name} is of another type")
    identities, context = _identities(record["identities"]), _context(record.get("context"))
    expression = _expression(plain["feature"], identities)
    text = plain["text_feature"]
    if row != _row(architecture, expression, identities, context, text):
        raise ValueError(f"rows {list(row)[:8]} are not those of feature {str(expression)[:40]!r}")
    entries = record["axes"]
    if not 1 <= len(entries) <= MAX_AXES:
        raise ValueError(f"it has no axis, or more than {MAX_AXES}")
    if len({entry["axis"]["name"] for entry in entries}) < len(entries):
        raise ValueError("two axes have one name")
    axes = []
    for index, entry in enumerate(entries):
        seeds = tuple(entry["seeds"])
        if not all(type(seed) is int for seed in seeds):
            raise ValueError("a seed is no whole number")
        has_rows = f"{index}/row_mean" in header.tensors
        shapes = parameter_shapes(architecture, row, _points(architecture, index, header))
        axes.append(
            AxisHead(
                axis=axis_of_record(**entry["axis"]),
                seeds=seeds,
                params={n: _nothing(len(seeds), *shape) for n, shape in shapes.items()},
                label_mean=float(entry["label_mean"]),
                label_std=float(entry["label_std"]),
                row_mean=_nothing(*row) if has_rows else None,
                row_std=_nothing(*row) if has_rows else None,
                reference=_blank_reference(f"{index}/reference", entry["ood"], header)
                if "ood" in entry
                else None,
                projections=_blank_projections(expression, identities),
                preference=preference_of(entry.get("preference")),
                **scales_of(entry),
            )
        )
        if not (math.isfinite(axes[-1].label_mean) and 0 < axes[-1].label_std < math.inf and seeds):
            raise ValueError(f"labels of axis {index} have no usable mean and std")
    check_calibration(plain.get("calibration"), [one.axis.name for one in axes])
    reference = _blank_reference("reference", record["ood"], header)
    trained = blank_trained(len(axes), header) if "trained/audio" in header.tensors else None
    return Head(
        architecture,
        row,
        identities=identities,
        axes=tuple(axes),
        reference=reference,
        trained=trained,
        context=context,
        **plain,
    )


def _row(
    architecture: Architecture,
    expression: Expression,
    identities: Sequence[Mapping[str, Any]],
    context: Context | None,
    text: str,
) -> tuple[int, ...]:
    """Return the shape of the rows that such a head sees."""
    kind = "none" if context is None else context.kind
    try:
        refuse_pooling(expression, kind, architecture.pooling)
    except OptionError as error:
        raise ValueError(str(error)) from error
    texts = [one["text_features"][text] for one in identities if text in one["text_features"]]
    if text and not texts:
        raise ValueError(f"no identity has a text feature {text[:40]!r}")
    shape = shape_of(expression, identities)
    if context is not None:
        shape = (math.prod(shape) * times(kind),)
    return input_width(architecture, shape, texts[0][0] if text else 0)


def _identities(record: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(record, list) or not 1 <= len(record) <= MAX_AXES:
        raise ValueError("it has no list of identities")
    for one in record:
        check_identity(one)
    return tuple(record)


def _context(record: Any) -> Context | None:
    if record is None:
        return None
    context = Context(**record)
    sizes = all(type(size) is int for size in (context.low, context.high))
    if context.kind not in CONTEXTS[1:] or context.by not in ("group", "prompt") or not sizes:
        raise ValueError("its context is none")
    return context


def _expression(text: str, identities: Sequence[Mapping[str, Any]]) -> Expression:
    """Return what a head reads; all its encoders, and every name in full."""
    try:
        expression = parse(text)
        chosen = used(expression, identities)
        if str(resolved(expression, identities)) != text or chosen != list(range(len(identities))):
            raise ValueError(f"feature {text[:40]!r} is not that of its identities")
    except OptionError as error:
        raise ValueError(str(error)) from error
    return expression


def _blank_projections(
    expression: Expression, identities: Sequence[Mapping[str, Any]]
) -> dict[Call, Projection]:
    blank = {}
    for one in projections(expression):
        width = sum(widths(one.of, identities))
        blank[one] = Projection(_nothing(width), _nothing(width, one.size))
    return blank


def _points(architecture: Architecture, index: int, header: Header) -> tuple[int, int]:
    """Return how many training clips an axis' head keeps, and of how many it takes the mean."""
    if architecture.kind not in KEEP_CLIPS:
        return 0, 0
    _, kept, _ = header.tensors[f"{index}/params/points"][1]
    near = 1
    if architecture.kind == "knn":
        _, near = header.tensors[f"{index}/params/shares"][1]
    if not 1 <= near <= kept and not (architecture.kind == "svr" and kept == 0):
        raise ValueError(f"axis {index} takes the mean of {near} of {kept} clips")
    return kept, near


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
        fitted = {
            call: Projection(*(tensors[f"{index}/projections/{k}/{n}"] for n in Projection._fields))
            for k, call in enumerate(one.projections)
        }
        own = one.reference
        if own is not None:
            own = _filled_reference(f"{index}/reference", own, tensors)
        filled = replace(one, params=params, row_mean=mean, row_std=std)
        axes.append(replace(filled, reference=own, projections=fitted))
    reference = _filled_reference("reference", blank.reference, tensors)
    trained = None if blank.trained is None else filled_trained(tensors)
    return replace(blank, axes=tuple(axes), reference=reference, trained=trained)


def axis_of_record(name: object, low: object, high: object, guessed: bool) -> Axis:
    """Return an axis of its record."""
    ends = all(isinstance(end, int | float) for end in (low, high))
    if not (isinstance(name, str) and ends and isinstance(guessed, bool)):
        raise ValueError("an axis is no name with two numbers")
    axis = Axis(name, float(low), float(high), guessed)  # type: ignore[arg-type]
    if not -math.inf < axis.low < axis.high < math.inf:
        raise ValueError(f"axis {name[:40]!r} from {axis.low} to {axis.high} is no range")
    return axis
