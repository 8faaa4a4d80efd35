"""How one head is trained: a recipe, and a job that applies it to a fold with a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, Unpack

from qamro_cache.errors import QamroError
from qamro_cache.heads.architecture import Architecture
from qamro_cache.losses.terms import PARAMETERS, Loss, parse_loss

#: Both terms see labels and predictions in units of the training labels' standard deviation, so
#: that a Huber delta of 1 and the learning rate mean the same on a 1-to-5 and a 0-to-100 scale.
DEFAULT_LOSS = "huber@standardized+qamro@standardized"


@dataclass(frozen=True)
class Recipe:
    """The settings of one head's training; a cell of a grid is a recipe.

    Attributes:
        head: architecture.
        loss: sum of named terms, see `qamro_cache.losses.terms`.
        alpha: QAMRO's margin per unit of label difference.
        beta: QAMRO's weight of a pair whose better clip has the best label.
        normalize: what QAMRO's label quality is relative to: ``train`` labels of the fold,
            ``batch`` (as the released code), or the rating ``scale``.
        optimizer: ``sgd`` or ``adamw``.
        lr: learning rate, for standardized embeddings and labels.
        momentum: of SGD.
        weight_decay: added to the gradient in SGD, decoupled in AdamW; biases included.
        dropout: share of hidden units set to 0 in training.
        batch_size: clips a step.
        batches: ``shared``: all heads see the same batches, each without its held-out clips;
            ``own``: each seed draws full batches from its own training clips.
        epochs: at most; exactly, without a validation set.
        patience: epochs without a better loss on the validation set before a head stops.
    """

    head: Architecture = field(default_factory=Architecture)
    loss: str = DEFAULT_LOSS
    alpha: float = 0.2
    beta: float = 7.0
    normalize: Literal["train", "batch", "scale"] = "train"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 5e-4
    momentum: float = 0.9
    weight_decay: float = 0.0
    dropout: float = 0.0
    batch_size: int = 256
    batches: Literal["shared", "own"] = "shared"
    epochs: int = 100
    patience: int = 20

    def __post_init__(self) -> None:
        for name, allowed in (
            ("normalize", ("train", "batch", "scale")),
            ("optimizer", ("sgd", "adamw")),
            ("batches", ("shared", "own")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        for name in ("alpha", "beta", "lr", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        _ = self.full_loss

    @property
    def full_loss(self) -> Loss:
        """The loss with alpha, beta and normalize in the terms that take them."""
        short = {name: getattr(self, name) for name in ("alpha", "beta", "normalize")}
        changed = {
            name: value for name, value in short.items() if value != PARAMETERS[name].default
        }
        return parse_loss(self.loss, changed)

    @property
    def bucket(self) -> tuple[object, ...]:
        """What heads must share to be trained in one stack."""
        return (
            self.head,
            self.full_loss.structure,
            self.optimizer,
            self.batch_size,
            self.batches,
            self.dropout > 0,
        )


class Settings(TypedDict, total=False):
    """A recipe's settings by flat names, as commands and grid files give them.

    The names are those of `Recipe` and `Architecture`; ``head`` is the architecture's ``kind``.
    """

    head: str
    widths: Sequence[int]
    activation: str
    layer_norm: bool
    output: str
    pooling: str
    inputs: str
    loss: str
    alpha: float
    beta: float
    normalize: str
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    dropout: float
    batch_size: int
    batches: str
    epochs: int
    patience: int


def make_recipe(**settings: Unpack[Settings]) -> Recipe:
    """Return the recipe of flat settings; what is not given has its default.

    A ``linear`` head has no hidden layers and an ``audiobox`` head is the published one's shape
    (no hidden layers, a score a window) unless ``widths`` or ``pooling`` say otherwise.

    Raises:
        ValueError: names the setting and its value.
    """
    given: dict[str, Any] = dict(settings)
    head: dict[str, Any] = {"kind": given.pop("head", "mlp")}
    if head["kind"] in ("linear", "audiobox"):
        head["widths"] = ()
    if head["kind"] == "audiobox":
        head["pooling"] = "scores"
    for name in (item.name for item in fields(Architecture) if item.name != "kind"):
        if name in given:
            head[name] = given.pop(name)
    unknown = set(given) - {item.name for item in fields(Recipe)}
    if unknown:
        raise ValueError(f"there is no setting {sorted(unknown)[0]!r}")
    return Recipe(head=Architecture(**head), **given)


def checked_recipe(settings: Settings) -> Recipe:
    """Make a recipe, a user's mistake being one line."""
    try:
        return make_recipe(**settings)
    except ValueError as error:
        raise QamroError(str(error)) from error


def flat_settings(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings by flat names: the inverse of `make_recipe`, JSON types."""
    head = {item.name: getattr(recipe.head, item.name) for item in fields(Architecture)}
    head["head"], head["widths"] = head.pop("kind"), list(head["widths"])
    names = (item.name for item in fields(Recipe) if item.name != "head")
    return head | {name: getattr(recipe, name) for name in names}


@dataclass(frozen=True)
class Job:
    """One head to train.

    Attributes:
        recipe: how.
        seed: of the initialization and dropout, and of the order of ``own`` batches.
        fold: row of the folds.
        target: row of the targets.
    """

    recipe: Recipe
    seed: int = 0
    fold: int = 0
    target: int = 0
