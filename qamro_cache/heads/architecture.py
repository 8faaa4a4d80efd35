"""The architecture of a head: what a stack of heads shares. No tensors, so no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qamro_cache.settings import check_settings, setting

#: A feature whose std is at most this times its mean is constant but for the rounding of float32
#: and of an encoder's sums (a mel band at its floor: some 2e-7), and carries nothing.
CONSTANT = 1e-6

#: Kinds that are fitted at once, without steps: in closed form, or by scikit-learn.
CLOSED = ("ridge", "knn", "svr")
#: Those of them that keep training clips, and score by the distances to these.
KEEP_CLIPS = ("knn", "svr")


@dataclass(frozen=True)
class Architecture:
    """What is the same for all heads of a stack; what differs (seed, dropout) is in the training.

    ``audiobox`` mixes cached layers [L, D], as they are, and puts an L2 norm before an ``mlp``;
    ``ridge`` is a ``linear`` head that is solved in closed form (`heads.ridge`); ``knn`` and
    ``svr`` keep training clips (`heads.points`).
    """

    kind: str = setting(
        "mlp",
        "Kind of head; ridge is solved in closed form, knn and svr keep training clips.",
        name="head",
        choices=("mlp", "linear", "audiobox", *CLOSED),
    )
    widths: tuple[int, ...] = setting(
        (256, 64),
        "Hidden layers, for example 256-64.",
        low=1,
        high=65_536,
        why="a layer's weights must fit in memory",
    )
    # The released QAMRO heads have none, which makes them one linear map without any penalty: it
    # overfits small sets (docs/training.md).
    activation: str = setting(
        "relu",
        "After each hidden layer; none as the released heads.",
        choices=("none", "relu", "gelu", "tanh"),
    )
    layer_norm: bool = setting(False, "Layer norm before each activation.")
    output: str = setting(
        "linear",
        "bounded stays within the rating scale; gaussian: a mean and a std, by the likelihood of "
        "each rating.",
        choices=("linear", "bounded", "gaussian"),
    )
    pooling: str = setting(
        "mean",
        "Of a clip's windows; scores: a score a window, then their mean.",
        choices=("mean", "max", "attention", "scores"),
    )
    layers: str = setting(
        "joined",
        "Of a layered feature, side by side; mixed: their mean by learned softmax weights.",
        choices=("joined", "mixed"),
    )
    inputs: str = setting(
        "audio", "What the head sees of the prompt.", choices=("audio", "concat", "products")
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.kind == "linear" and self.widths:
            raise ValueError(f"a linear head has no hidden layers, got widths={self.widths}")
        if self.kind == "audiobox" and self.pooling == "attention":
            raise ValueError("an audiobox head takes no attention pooling")
        if self.kind == "audiobox" and self.layers == "mixed":
            raise ValueError("an audiobox head mixes layers as it is: leave out layers=mixed")
        if self.closed and not self.rows_are_clips:
            raise ValueError(f"a {self.kind} head takes pooling='mean' or 'max'")
        if self.closed and (self.widths or self.output != "linear" or self.mixes):
            raise ValueError(
                f"a {self.kind} head has no hidden layers, a linear output and joined layers"
            )
        if self.mixes and self.takes_prompts:
            raise ValueError("a head that mixes layers (or an audiobox head) takes inputs='audio'")

    @property
    def closed(self) -> bool:
        """Whether such a head is fitted at once: one, whatever the seed."""
        return self.kind in CLOSED

    @property
    def mixes(self) -> bool:
        """Whether a row is layers [L, D], which the head weighs."""
        return self.kind == "audiobox" or self.layers == "mixed"

    @property
    def takes_prompts(self) -> bool:
        """Whether the head sees what a clip was made from."""
        return self.inputs != "audio"

    @property
    def rows_are_clips(self) -> bool:
        """Whether windows are pooled before the head, so that a row is a clip."""
        return self.pooling in ("mean", "max")


def usual_shape(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Architecture` with the usual ones of their kind where not given.

    A head that is ``linear``, or fitted at once, has no hidden layers; an ``audiobox`` head none
    and a score a window, as the published one.
    """
    usual: dict[str, Any] = {}
    if given.get("kind") in ("linear", "audiobox", *CLOSED):
        usual["widths"] = ()
    if given.get("kind") == "audiobox":
        usual["pooling"] = "scores"
    return {**usual, **given}


def row_blocks(inputs: str, audio: Sequence[int], text: int = 0) -> tuple[int, ...]:
    """Return the widths of what a flat row is made of: each layer of the audio, the prompt, ...

    Args:
        inputs: of the `Architecture`.
        audio: widths of what the audio's features are made of: layers, parts of a join.
        text: width of a prompt's embedding.
    """
    if inputs == "concat":
        return (*audio, text)
    return tuple(audio) * (4 if inputs == "products" else 1)
