"""How one head is trained: a recipe, and a job that applies it to a fold with a seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from qamro_cache.errors import OptionError, nearest
from qamro_cache.heads.architecture import CLOSED, Architecture, usual_shape
from qamro_cache.losses.loss import Loss, parse_loss
from qamro_cache.losses.terms import PARAMETERS
from qamro_cache.settings import Setting, check_settings, setting, settings_of

#: Both terms see labels and predictions in units of the training labels' standard deviation, so
#: that a Huber delta of 1 and the learning rate mean the same on a 1-to-5 and a 0-to-100 scale.
DEFAULT_LOSS = "huber@standardized+qamro@standardized"

#: What acts on a head that is fitted at once: nothing of it is trained in steps.
_OF_CLOSED = ("head", "pooling", "inputs")
#: What a likelihood is in place of.
_OF_LOSSES = ("loss", *PARAMETERS)


@dataclass(frozen=True)
class Recipe:
    """The settings of one head's training; a cell of a grid is a recipe.

    Learning rates are for standardized embeddings and labels. Weight decay is added to the gradient
    in SGD and decoupled in AdamW, biases included.
    """

    head: Architecture = field(default_factory=Architecture)
    loss: Loss = field(default_factory=lambda: parse_loss(DEFAULT_LOSS))
    optimizer: str = setting("sgd", "Optimizer of the weights.", choices=("sgd", "adamw"))
    lr: float = setting(5e-4, "Learning rate.", low=0)
    momentum: float = setting(0.9, "Momentum of SGD.", low=0, below=1)
    weight_decay: float = setting(0.0, "Weight decay, of biases too.", low=0)
    dropout: float = setting(0.0, "Share of hidden units set to 0 in training.", low=0, below=1)
    batch_size: int = setting(
        256, "Clips a step.", low=1, high=1 << 20, why="a step's predictions must fit in memory"
    )
    batches: str = setting(
        "shared",
        "One order of batches for all heads, or full batches of its own for each seed.",
        choices=("shared", "own"),
    )
    epochs: int = setting(
        100,
        "At most, of at least 8 steps each; exactly, with --stop fixed.",
        low=1,
        high=1_000_000,
        why="a run has to end",
    )
    patience: int = setting(
        20, "Epochs without a better loss on the validation set, then stop.", low=1, high=1_000_000
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def takes(self, name: str) -> bool:
        """Tell whether a setting of `RECIPE` acts on such a head."""
        if self.head.closed:
            return name in _OF_CLOSED
        if self.head.output == "gaussian" and name in _OF_LOSSES:
            return False
        return name not in PARAMETERS or self.loss.takes(name)

    @property
    def bucket(self) -> tuple[object, ...]:
        """What heads must share to be trained in one stack."""
        return (
            self.head,
            self.loss.structure,
            self.optimizer,
            self.batch_size,
            self.batches,
            self.dropout > 0,
        )


_LOSS = Setting(
    "loss", str, DEFAULT_LOSS, "Sum of terms, [weight*]name[(parameter=value,...)][@units]."
)

#: Every setting of a recipe by its flat name: the loss, its terms' parameters, the training and
#: the head's architecture. Options, grid files and the table in docs/training.md are made from it.
RECIPE: Mapping[str, Setting] = MappingProxyType(
    {
        one.name: one
        for one in (
            _LOSS,
            *PARAMETERS.values(),
            *settings_of(Recipe).values(),
            *settings_of(Architecture).values(),
        )
    }
)


def make_recipe(given: Mapping[str, Any]) -> Recipe:
    """Return the recipe of flat settings; what is not given has its default.

    Args:
        given: names of `RECIPE` with their values. A parameter of a loss term (``alpha``) goes to
            the terms that have one of that name. A ``linear`` head has no hidden layers, and an
            ``audiobox`` head is the published one's shape, unless they say otherwise. A head of
            `CLOSED` takes nothing that is for training in steps, a ``gaussian`` output no loss.

    Raises:
        ValueError: names the setting and its value.
    """
    for name in given:
        if name not in RECIPE:
            raise ValueError(f"there is no setting {name!r}{nearest(name, tuple(RECIPE))}")
    if given.get("head") in CLOSED:
        for name in given:
            if name not in _OF_CLOSED:
                raise ValueError(
                    f"a {at_once(given['head'])} and takes no {name}, "
                    f"only {' and '.join(_OF_CLOSED[1:])}"
                )
    if given.get("output") == "gaussian":
        for name in _OF_LOSSES:
            if name in given:
                raise ValueError(f"output=gaussian is trained by its likelihood: no {name}")
    parameters = {name: given[name] for name in PARAMETERS if name in given}
    loss = parse_loss(_LOSS.check(str(given.get("loss", DEFAULT_LOSS))), parameters)
    shape = {key: given[one.name] for key, one in settings_of(Architecture).items()
             if one.name in given}  # fmt: skip
    if not loss.on_labels.terms and given.get("output", "linear") != "linear":
        raise ValueError(f"output={given['output']} needs a rating scale, which pairs do not have")
    training = {name: given[name] for name in settings_of(Recipe) if name in given}
    return Recipe(head=Architecture(**usual_shape(shape)), loss=loss, **training)


def at_once(kind: str) -> str:
    """Say of a kind of `CLOSED` how it is fitted."""
    return f"{kind} head is {'solved in closed form' if kind == 'ridge' else 'fitted at once'}"


def huber_alone(recipe: Recipe) -> Recipe:
    """Return the recipe with nothing but Huber's loss of the usual units: no ranking."""
    output = "linear" if recipe.head.output == "gaussian" else recipe.head.output
    head = replace(recipe.head, output=output)
    return replace(recipe, head=head, loss=parse_loss("huber@standardized"))


def checked_recipe(given: Mapping[str, Any]) -> Recipe:
    """Make a recipe, a user's mistake being one line."""
    try:
        return make_recipe(given)
    except ValueError as error:
        raise OptionError(str(error)) from error


def flat_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's settings by flat names, the inverse of `make_recipe`, as JSON types.

    The terms' parameters stand in the text of ``loss``, those by default too. There is only what
    acts on the head.
    """
    head = {one.name: getattr(recipe.head, key) for key, one in settings_of(Architecture).items()}
    training = {name: getattr(recipe, name) for name in settings_of(Recipe)}
    flat = {
        **head,
        "widths": list(recipe.head.widths),
        "loss": recipe.loss.text(whole=True),
        **training,
    }
    return {name: value for name, value in flat.items() if recipe.takes(name)}


@dataclass(frozen=True)
class Job:
    """One head to train.

    Attributes:
        recipe: how.
        seed: of the initialization and dropout, and of the order of ``own`` batches.
        fold: row of the folds.
        target: row of the targets.
        view: which of the features it sees.
    """

    recipe: Recipe
    seed: int = 0
    fold: int = 0
    target: int = 0
    view: int = 0
