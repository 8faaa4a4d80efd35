"""A head as one network: from a clip's vector, and its company's, to ratings of every axis."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qamro_cache.features.expression import parse, takes_windows
from qamro_cache.features.lookup import shape_of
from qamro_cache.features.pooling import beside_prompt
from qamro_cache.features.vectors import ClipVectors, Projection, leaves_of
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.network import (
    Rows,
    Windows,
    fold_standardization,
    score_rows,
)
from qamro_cache.heads.outputs import means


class Input(NamedTuple):
    """What goes in by one name.

    Attributes:
        shape: of it, with the names of sizes that may be any: ``clips``, ``windows``.
        about: what it is.
    """

    shape: tuple[str | int, ...]
    about: str


class HeadProgram(nn.Module):
    """What `predict` computes of a head's clips, in float32: vectors in, ratings out.

    Attributes:
        inputs: by name, in the order of `forward`; which there are depends on the head.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.architecture, self.context = head.architecture, head.context
        self.expression = parse(head.feature)
        # Of `features.vectors`, each once: the vector that goes in.
        self.leaves = list(dict.fromkeys(leaves_of(self.expression)))
        shapes = [shape_of(leaf, head.identities) for leaf in self.leaves]
        self.widths = [math.prod(shape) for shape in shapes]
        kind = "none" if head.context is None else head.context.kind
        self.windowed = takes_windows(self.expression, kind)
        self.inputs = _inputs(head, self.widths, shapes[0])
        self.axes = nn.ModuleList(_Members(head, one) for one in head.axes)

    def forward(
        self,
        clip: Tensor,
        weights: Tensor | None = None,
        reference: Tensor | None = None,
        group: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Score N clips; `inputs` says which of these there are, and of what shapes.

        Returns:
            [N, axes] the members' mean in the axes' units, and [N, axes] their standard
            deviation; NaN of one member.
        """
        scored = [self._scored(k, clip, weights, [reference, group], prompt)
                  for k in range(len(self.axes))]  # fmt: skip
        mean, std = (torch.stack(part, 1) for part in zip(*scored, strict=True))
        return mean, std

    def _scored(
        self,
        k: int,
        clip: Tensor,
        weights: Tensor | None,
        company: list[Tensor | None],
        prompt: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation [N] of one axis' members."""
        members = self.axes[k]
        assert isinstance(members, _Members)
        windows = None
        vector = values = clip if self.windowed else self._vector(members, clip)
        for beside in company:
            if beside is not None:
                difference = vector - self._vector(members, beside)
                values = torch.cat([values, difference, difference.abs()], 1)
        if weights is not None:
            clips, most = weights.shape
            places = torch.arange(clips, device=clip.device)[:, None].expand(clips, most)
            windows = Windows(places.reshape(-1), weights.reshape(-1), clips)
            if prompt is not None:
                prompt = prompt[:, None].expand(-1, most, -1).flatten(0, 1)
            values = clip.flatten(0, 1)
        if prompt is not None:
            values = beside_prompt(self.architecture.inputs, values, prompt)
        return members.scored(Rows(values, windows))

    def _vector(self, members: "_Members", vector: Tensor) -> Tensor:
        """Return what the head sees of a vector: its parts, some of them projected."""
        parts = dict(zip(self.leaves, vector.split(self.widths, 1), strict=True))
        fitted = {call: members.projection(k) for k, call in enumerate(members.calls)}
        return ClipVectors(self.expression, parts).values(fitted)


class _Members(nn.Module):
    """The members of one axis, with their tensors as buffers."""

    def __init__(self, head: Head, one: AxisHead) -> None:
        super().__init__()
        self.architecture, self.calls = head.architecture, list(one.projections)
        self.label_mean, self.label_std = one.label_mean, one.label_std
        params, mean, std = dict(one.params), one.row_mean, one.row_std
        self.standardizes = head.architecture.mixes and mean is not None
        if mean is not None and std is not None:
            if self.standardizes:
                self.register_buffer("row_mean", mean.clone())
                self.register_buffer("row_std", std.clone())
            else:
                params = fold_standardization(params, mean, std)
        self.names = list(params)
        for name, value in params.items():
            self.register_buffer(_buffer(name), value.clone())
        for number, projection in enumerate(one.projections.values()):
            self.register_buffer(f"mean_{number}", projection.mean.clone())
            self.register_buffer(f"basis_{number}", projection.basis.clone())
        self.register_buffer("bounds", one.bounds.clone())

    def projection(self, k: int) -> Projection:
        """Return the k-th projection of the axis."""
        return Projection(self.get_buffer(f"mean_{k}"), self.get_buffer(f"basis_{k}"))

    def scored(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation [N] of the members on rows."""
        if self.standardizes:
            mean, std = self.get_buffer("row_mean"), self.get_buffer("row_std")
            rows = rows._replace(values=(rows.values - mean) / std)
        params = {name: self.get_buffer(_buffer(name)) for name in self.names}
        bounds = self.get_buffer("bounds")
        out = means(score_rows(self.architecture, params, rows, bounds=bounds))
        mean = self.label_mean + self.label_std * out.mean(0)
        if len(out) == 1:
            return mean, torch.full_like(mean, torch.nan)
        return mean, self.label_std * out.std(0)


def _buffer(name: str) -> str:
    """Return a parameter's name as a buffer may have it."""
    return f"param_{name.replace('.', '_')}"


def _inputs(head: Head, widths: list[int], shape: tuple[int, ...]) -> dict[str, Input]:
    """Return what a head is given, by name."""
    architecture, read = head.architecture, parse(head.feature)
    width = sum(widths)
    text = next((one["text_features"][head.text_feature][0] for one in head.identities
                 if head.text_feature in one["text_features"]), 0)  # fmt: skip
    row = shape if architecture.mixes else (width,)
    what = " + ".join(map(str, dict.fromkeys(leaves_of(read))))
    pooled = "largest values" if architecture.pooling == "max" else "weighted mean"
    found = {"clip": Input(("clips", *row), f"{what}; a clip's windows by their {pooled}")}
    if not architecture.rows_are_clips:
        found["clip"] = Input(("clips", "windows", *row), f"{what}, window by window")
        about = "the fraction of each window that is audio; 0 where a clip has fewer windows"
        found["weights"] = Input(("clips", "windows"), about)
    kind = "none" if head.context is None else head.context.kind
    if kind in ("reference", "both"):
        about = "the vector of its reference; its own where it has none"
        found["reference"] = Input(("clips", width), about)
    if kind in ("group", "both"):
        about = "the mean vector of its group's other clips; its own where it has none"
        found["group"] = Input(("clips", width), about)
    if architecture.inputs != "audio":
        found["prompt"] = Input(("clips", text), f"{head.text_feature} of its prompt")
    return found
