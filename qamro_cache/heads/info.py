"""What a head is, in one record."""

import hashlib
from typing import Any

from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import Head
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


def describe_head(head: Head) -> dict[str, Any]:
    """Say what a head is: JSON types.

    Returns:
        ``dataset`` that it was trained on, whether that is ``synthetic``, ``licenses`` as far as
        they are known, ``axes`` (of each ``low``, ``high``, ``guessed``, ``members`` and
        ``parameters`` of all of them), ``feature`` that is read, ``text_feature``, ``encoders``
        (name -> sha256 of its identity), ``context``, ``architecture``, ``clips`` that it learned
        from (None: not known), ``recipe``, ``versions`` and ``figures``, as `Head` has them.
    """
    training, context = head.training, head.context
    return {
        "dataset": str(training.get("dataset", "")),
        "synthetic": bool(training.get("synthetic", False)),
        "licenses": dict(_mapping(training.get("licenses"))),
        "axes": {
            one.axis.name: {
                "low": one.axis.low,
                "high": one.axis.high,
                "guessed": one.axis.guessed,
                "members": len(one.seeds),
                "parameters": sum(value.numel() for value in one.params.values()),
            }
            for one in head.axes
        },
        "feature": head.feature,
        "text_feature": head.text_feature,
        "encoders": {str(one["name"]): identity_sha256(one) for one in head.identities},
        "context": "none" if context is None else context.kind,
        "architecture": {
            "kind": head.architecture.kind,
            "widths": list(head.architecture.widths),
            "row": list(head.row),
        },
        "clips": None if head.trained is None else len(head.trained.audio),
        "recipe": dict(_mapping(training.get("recipe"))),
        "versions": dict(_mapping(training.get("versions"))),
        "figures": head.figures,
    }


def _mapping(value: Any) -> dict[str, Any]:
    """Return a mapping of a stranger's record; nothing for what is none."""
    return value if isinstance(value, dict) else {}
