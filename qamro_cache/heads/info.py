"""What a head is, in one record."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from qamro_cache.datasets.records import Axis
from qamro_cache.heads.averaged import scale_of
from qamro_cache.heads.calibration import calibration_of
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import AnyHead, AxisHead, Ensemble, Head, axes_of, members_of
from qamro_cache.heads.names import head_path
from qamro_cache.identity import identity_sha256
from qamro_cache.paths import PathLike


def head_info(path: PathLike) -> dict[str, Any]:
    """Read a head file in full and say what it is.

    Args:
        path: as `load_head` takes it.

    Returns:
        ``file``, ``bytes`` and ``sha256`` of the file, and the fields of `describe_head`.

    Raises:
        QamroError: as `load_head`.
    """
    file = head_path(path)
    head = load_head(file)
    data = file.read_bytes()
    about = {"file": str(file), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return {**about, **describe_head(head)}


def describe_head(head: AnyHead) -> dict[str, Any]:
    """Say what a head is: JSON types.

    Returns:
        ``dataset`` that it was trained on, whether that is ``synthetic``, ``licenses`` as far as
        they are known, ``axes`` (of each ``low`` and ``high`` of its scores, None in standard
        units, ``guessed``, on how many clips it was ``calibrated``, None: on none, ``judged``,
        whether its figures are of these scores, ``members`` and ``parameters`` of all of them),
        ``feature`` that is read, ``text_feature``, ``encoders`` (name -> sha256 of its identity),
        ``context``, ``architecture``, ``clips`` that it learned from (None: not known), whether
        the clips that judged it stayed ``unseen``, ``recipe``, ``versions`` and ``figures``, as
        `Head` has them.
    """
    training, heads = head.training, members_of(head)
    contexts = ["none" if one.context is None else one.context.kind for one in heads]
    shape = {
        "kind": heads[0].architecture.kind,
        "widths": list(heads[0].architecture.widths),
        "row": list(heads[0].row),
    }
    return {
        "dataset": str(training.get("dataset", "")),
        "synthetic": bool(training.get("synthetic", False)),
        "licenses": dict(_mapping(training.get("licenses"))),
        "axes": {
            axis.name: {
                **_scale(head, axis),
                "members": sum(len(one.seeds) for one in _of_axis(heads, axis.name)),
                "parameters": sum(
                    value.numel()
                    for one in _of_axis(heads, axis.name)
                    for value in one.params.values()
                ),
            }
            for axis in axes_of(head)
        },
        "feature": _each([one.feature for one in heads]),
        "text_feature": _each([one.text_feature for one in heads]),
        "encoders": {str(one["name"]): identity_sha256(one) for one in head.identities},
        "context": _each(contexts),
        "architecture": {"kind": "ensemble"} if isinstance(head, Ensemble) else shape,
        "clips": None if head.trained is None else len(head.trained.audio),
        "unseen": training.get("cv") == "split" and _asked(training, "refit") != "all",
        "recipe": dict(_mapping(training.get("recipe"))),
        "versions": dict(_mapping(training.get("versions"))),
        "figures": head.figures,
    }


def scale_words(axis: Mapping[str, Any]) -> str:
    """Say on what scale an axis of `describe_head` scores, and by what."""
    known = axis["low"] is not None
    words = [f"{axis['low']:g} to {axis['high']:g}" if known else "standard units"]
    words += ["guessed"] if axis["guessed"] else []
    if axis["calibrated"] is not None:
        words.append(f"calibrated on {axis['calibrated']} clips")
    return ", ".join(words)


def _scale(head: AnyHead, own: Axis) -> dict[str, Any]:
    """Return the scale of an axis' scores, which is not its own where it is calibrated."""
    scale = scale_of(head, own.name)
    calibration = calibration_of(head.calibration, own.name)
    same = scale is not None and (scale.low, scale.high) == (own.low, own.high)
    return {
        "low": None if scale is None else scale.low,
        "high": None if scale is None else scale.high,
        "guessed": scale is not None and scale.guessed,
        "calibrated": None if calibration is None else calibration.clips,
        # A run that calibrates does so before it judges.
        "judged": calibration is None or (same and bool(_asked(head.training, "calibrate"))),
    }


def _asked(training: Mapping[str, Any], option: str) -> Any:
    return _mapping(training.get("asked")).get(option)


def _of_axis(heads: Sequence[Head], axis: str) -> list[AxisHead]:
    return [one for head in heads for one in head.axes if one.axis.name == axis]


def _each(words: Sequence[str]) -> str:
    """Return what members say, each once."""
    return ", ".join(filter(None, dict.fromkeys(words)))


def _mapping(value: Any) -> dict[str, Any]:
    """Return a mapping of a stranger's record; nothing for what is none."""
    return value if isinstance(value, dict) else {}
