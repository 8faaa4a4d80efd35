"""An ensemble as a JSON record and tensors by name, and back: each member as a head is."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

from torch import Tensor

from qamro_cache.files import json_text
from qamro_cache.heads.calibration import check_calibration
from qamro_cache.heads.head import Ensemble
from qamro_cache.heads.header import Header
from qamro_cache.heads.record import (
    MAX_AXES,
    axis_of_record,
    blank_head,
    filled_head,
    record_of,
    tensors_of,
)
from qamro_cache.heads.trained import blank_trained, filled_trained, tensors_of_trained

Value = TypeVar("Value")

#: Most heads, and most often that one counts.
MAX_MEMBERS, MAX_TIMES = 1000, 1_000_000
#: What may stand in a record, as it is.
_KEPT = ("calibration", "figures")


def ensemble_tensors(ensemble: Ensemble) -> dict[str, Tensor]:
    """Return every tensor of an ensemble by its name in the file."""
    tensors = {
        f"{place}/{name}": value
        for place, head in enumerate(ensemble.members)
        for name, value in tensors_of(head).items()
    }
    return {**tensors, **tensors_of_trained(ensemble.trained)}


def ensemble_record(ensemble: Ensemble) -> dict[str, Any]:
    """Return everything of an ensemble but its tensors: JSON types."""
    kept = {name: getattr(ensemble, name) for name in _KEPT}
    return {
        "members": [record_of(head) for head in ensemble.members],
        "times": [list(times) for times in ensemble.times],
        "axes": [asdict(axis) for axis in ensemble.axes],
        "training": json.loads(json_text(dict(ensemble.training))),
        **{name: json.loads(json_text(dict(value))) for name, value in kept.items() if value},
    }


def blank_ensemble(record: Mapping[str, Any], header: Header) -> Ensemble:
    """Return an ensemble of a record, with tensors of the right shapes that take no memory."""
    if not 1 <= len(record["members"]) <= MAX_MEMBERS:
        raise ValueError(f"it has no member, or more than {MAX_MEMBERS}")
    axes = tuple(axis_of_record(**one) for one in record["axes"])
    names = [axis.name for axis in axes]
    if not 1 <= len(set(names)) == len(names) <= MAX_AXES:
        raise ValueError(f"it has no axis, more than {MAX_AXES}, or two of one name")
    members = tuple(
        blank_head(one, replace(header, tensors=_of_member(place, header.tensors)))
        for place, one in enumerate(record["members"])
    )
    times = tuple(tuple(one) for one in record["times"])
    theirs = [[one.axis.name for one in head.axes] for head in members]
    if [len(one) for one in times] != [len(one) for one in theirs]:
        raise ValueError("its members do not count for each of their axes")
    if not all(type(n) is int and 1 <= n <= MAX_TIMES for one in times for n in one):
        raise ValueError("a member counts no whole number of times")
    if {name for one in theirs for name in one} != set(names):
        raise ValueError("its axes are not those of its members")
    if not isinstance(record["training"], dict) or any(head.trained for head in members):
        raise ValueError("what it was trained on stands in another place")
    kept = {name: record[name] for name in _KEPT if name in record}
    if not all(isinstance(one, dict) and one for one in kept.values()):
        raise ValueError("its calibration or its figures are none")
    check_calibration(kept.get("calibration"), names)
    if any(head.calibration for head in members):
        raise ValueError("a member is calibrated by itself")
    trained = blank_trained(len(axes), header) if "trained/audio" in header.tensors else None
    return Ensemble(members, times, axes, record["training"], trained, **kept)


def filled_ensemble(blank: Ensemble, tensors: Mapping[str, Tensor]) -> Ensemble:
    """Return an ensemble with its tensors by the names of `ensemble_tensors`."""
    members = tuple(
        filled_head(head, _of_member(place, tensors)) for place, head in enumerate(blank.members)
    )
    trained = None if blank.trained is None else filled_trained(tensors)
    return replace(blank, members=members, trained=trained)


def _of_member(place: int, named: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a file has of one member, by the member's own names."""
    start = f"{place}/"
    return {n.removeprefix(start): one for n, one in named.items() if n.startswith(start)}
