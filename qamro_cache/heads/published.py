"""The published audiobox heads: what heads start from, and what they say themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.heads.network import Architecture, forward


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
        QamroError: another kind of head or output, an axis that the model does not have, no
            checkpoint.
    """
    if head.kind != "audiobox" or head.output == "gaussian":
        raise QamroError(
            "--init takes --head audiobox, no gaussian output, and a cache made by the audiobox "
            "encoder"
        )
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


def published_scores(
    head: Architecture,
    start: Mapping[str, Tensor],
    windows: Tensor,
    offsets: Tensor,
    weights: Tensor,
) -> Tensor:
    """Return the published model's own scores of clips on one axis: [C].

    Args:
        head: of `published_start`.
        start: of one axis, as `published_start` returns it.
        windows: [W, 13, 768] layers of all windows.
        offsets: [C+1] int64, the windows of each clip.
        weights: [W].
    """
    # A score a window and no bounds, whatever the heads that start from it have.
    plain = replace(head, pooling="scores", output="linear")
    with torch.no_grad():
        params = {name: value.unsqueeze(0) for name, value in start.items()}
        return forward(plain, params, windows, offsets, weights)[0]
