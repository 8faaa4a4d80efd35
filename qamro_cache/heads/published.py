"""Start audiobox heads from the published model's: tensors from its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.heads.network import Architecture


def published_start(
    checkpoint: Path, axes: Sequence[Axis], head: Architecture
) -> tuple[Architecture, dict[int, Mapping[str, Tensor]]]:
    """Return the published heads' architecture and, for each axis, its parameters.

    The last layer is scaled so that the head scores in label units, as the published one does.

    Args:
        checkpoint: of the Audiobox-Aesthetics model, a file or folder.
        axes: named CE, CU, PC or PQ.
        head: of kind ``audiobox``; its hidden layers are replaced by the published ones.

    Raises:
        QamroError: another kind of head, an axis that the model does not have, no checkpoint.
    """
    if head.kind != "audiobox":
        raise QamroError("--init takes --head audiobox and a cache made by the audiobox encoder")
    from qamro_cache.encoders.audiobox import published_head

    known = published_head(checkpoint)
    starts: dict[int, Mapping[str, Tensor]] = {}
    for target, axis in enumerate(axes):
        if axis.name not in known:
            raise QamroError(
                f"--init: the published model has no axis {axis.name!r}, but {', '.join(known)}; "
                "choose with --axis"
            )
        one = known[axis.name]
        tensors = dict(one.tensors)
        tensors["output.bias"] = tensors["output.bias"] * one.std + one.mean
        tensors["output.weight"] = tensors["output.weight"] * one.std
        starts[target] = tensors
        head = replace(head, widths=one.widths, activation="gelu", layer_norm=one.layer_norm)
    return head, starts
