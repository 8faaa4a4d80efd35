"""What kind of head: the settings that a stack of heads shares. No tensors, so no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """What is the same for all heads of a stack; what differs (seed, dropout) is in the training.

    Attributes:
        kind: ``mlp``; ``linear`` (no hidden layer); ``audiobox`` (softmax weights over cached
            layers [L, D], L2 norm, then as ``mlp``).
        widths: hidden layers.
        activation: after each hidden layer. The released QAMRO heads have ``none``, which makes
            them one linear map without regularization: it overfits small sets.
        layer_norm: before each activation.
        output: ``linear``, or ``bounded`` to the label range by a sigmoid.
        pooling: of a clip's windows: ``mean`` (weighted) or ``max`` of the features, ``attention``
            (learned), or ``scores``: a score a window, then their weighted mean.
        inputs: ``audio``; ``concat`` with the prompt's embedding; ``products``: also their
            product and absolute difference (equal widths).
    """

    kind: Literal["mlp", "linear", "audiobox"] = "mlp"
    widths: tuple[int, ...] = (256, 64)
    activation: Literal["none", "relu", "gelu", "tanh"] = "relu"
    layer_norm: bool = False
    output: Literal["linear", "bounded"] = "linear"
    pooling: Literal["mean", "max", "attention", "scores"] = "mean"
    inputs: Literal["audio", "concat", "products"] = "audio"

    def __post_init__(self) -> None:
        _check("kind", self.kind, ("mlp", "linear", "audiobox"))
        _check("activation", self.activation, ("none", "relu", "gelu", "tanh"))
        _check("output", self.output, ("linear", "bounded"))
        _check("pooling", self.pooling, ("mean", "max", "attention", "scores"))
        _check("inputs", self.inputs, ("audio", "concat", "products"))
        object.__setattr__(self, "widths", tuple(int(width) for width in self.widths))
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be positive, got {self.widths}")
        if self.kind == "linear" and self.widths:
            raise ValueError(f"a linear head has no hidden layers, got widths={self.widths}")
        if self.kind == "audiobox" and (self.inputs != "audio" or self.pooling == "attention"):
            raise ValueError("an audiobox head takes inputs='audio' and no attention pooling")

    @property
    def rows_are_clips(self) -> bool:
        """Whether windows are pooled before the head, so that a row is a clip."""
        return self.pooling in ("mean", "max")


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
