"""A head as one network: from a clip's vector, and its company's, to ratings of every axis."""

import math
from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qamro_cache.features.expression import parse, takes_windows
from qamro_cache.features.lookup import shape_of
from qamro_cache.features.pooling import beside_prompt
from qamro_cache.features.vectors import ClipVectors, Projection, leaves_of
from qamro_cache.heads.architecture import KEEP_CLIPS
from qamro_cache.heads.averaged import calibrated_tensors
from qamro_cache.heads.head import AnyHead, AxisHead, Head, axes_of, members_of, shares_of
from qamro_cache.heads.network import (
    Rows,
    Windows,
    fold_standardization,
    score_rows,
)
from qamro_cache.heads.outputs import means
from qamro_cache.heads.point_scores import point_scores
from qamro_cache.identity import identity_sha256


class Input(NamedTuple):
    """What goes in by one name.

    Attributes:
        shape: of it, with the names of sizes that may be any: ``clips``, ``windows``.
        about: what it is.
    """

    shape: tuple[str | int, ...]
    about: str


class HeadProgram(nn.Module):
    """What `predict` computes of a head's clips, or an ensemble's: vectors in, ratings out.

    It is called by the names of ``inputs``, with N clips, and returns [N, axes] twice: the members'
    mean in the axes' units, on the scale that the head is calibrated to; and their standard
    deviation, NaN of one member.

    Attributes:
        inputs: by name, in their order; which there are depends on the head. What several heads of
            an ensemble are given is there once; of others of one kind the second is ``clip_2``.
    """

    def __init__(self, head: AnyHead) -> None:
        super().__init__()
        self.calibration = head.calibration
        self.axes = [axis.name for axis in axes_of(head)]
        self.shares = [shares_of(head, name) for name in self.axes]
        heads = members_of(head)
        self.parts = nn.ModuleList(_HeadProgram(one) for one in heads)
        self.inputs, self._names = _joined([one.inputs for one in self.parts], heads)  # type: ignore[misc]

        def forward(**given: Tensor) -> tuple[Tensor, Tensor]:
            return self._scored(given)

        # `torch.export` reads there what the inputs are called.
        names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in self.inputs]
        forward.__signature__ = Signature(names)  # type: ignore[attr-defined]
        self.forward = forward

    def _scored(self, given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores = [
            part(**{mine: given[name] for mine, name in names.items()})
            for part, names in zip(self.parts, self._names, strict=True)
        ]
        found = []
        for name, chosen in zip(self.axes, self.shares, strict=True):
            members = [scores[k][row] for k, row, _ in chosen]
            parts = [
                share / len(one)
                for one, (*_, share) in zip(members, chosen, strict=True)
                for _ in one
            ]
            found.append(calibrated_tensors(self.calibration, name, torch.cat(members), parts))
        mean, std = (torch.stack(part, 1).float() for part in zip(*found, strict=True))
        return mean, std


class _HeadProgram(nn.Module):
    """One head: vectors in, of each axis its members' scores out."""

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
    ) -> list[Tensor]:
        """Score N clips; ``inputs`` says which of these there are, and of what shapes.

        Returns:
            Of each axis [members, N] in its units.
        """
        return [
            self._scored(k, clip, weights, [reference, group], prompt)
            for k in range(len(self.axes))
        ]

    def _scored(
        self,
        k: int,
        clip: Tensor,
        weights: Tensor | None,
        company: list[Tensor | None],
        prompt: Tensor | None,
    ) -> Tensor:
        """Return the scores [members, N] on one axis."""
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
        self.keeps_clips = head.architecture.kind in KEEP_CLIPS
        self.standardizes = (head.architecture.mixes or self.keeps_clips) and mean is not None
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

    def scored(self, rows: Rows) -> Tensor:
        """Return the members' scores [M, N] of rows."""
        if self.standardizes:
            mean, std = self.get_buffer("row_mean"), self.get_buffer("row_std")
            rows = rows._replace(values=(rows.values - mean) / std)
        params = {name: self.get_buffer(_buffer(name)) for name in self.names}
        if self.keeps_clips:
            out = point_scores(self.architecture.kind, params, rows.values)
        else:
            bounds = self.get_buffer("bounds")
            out = means(score_rows(self.architecture, params, rows, bounds=bounds))
        return self.label_mean + self.label_std * out


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
    if architecture.takes_prompts:
        found["prompt"] = Input(("clips", text), f"{head.text_feature} of its prompt")
    return found


def _joined(
    inputs: Sequence[dict[str, Input]], heads: Sequence[Head]
) -> tuple[dict[str, Input], list[dict[str, str]]]:
    """Return what several heads are given together, and of each what its own are called there.

    What is the same of the same encoders goes in once.
    """
    found: dict[str, Input] = {}
    known: dict[Any, str] = {}
    names: list[dict[str, str]] = []
    for theirs, head in zip(inputs, heads, strict=True):
        encoders = [one["name"] for one in head.identities]
        names.append({})
        for name, one in theirs.items():
            key = name, one, theirs["clip"], tuple(map(identity_sha256, head.identities))
            if key not in known:
                taken = sum(other.partition("_")[0] == name for other in found)
                known[key] = f"{name}_{taken + 1}" if taken else name
                if len(heads) > 1:
                    one = one._replace(about=f"{one.about} (of {' and '.join(encoders)})")
                found[known[key]] = one
            names[-1][name] = known[key]
    return found, names
