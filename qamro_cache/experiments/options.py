"""The options of `train` and `ablate` beside the recipe's settings."""

from dataclasses import dataclass
from pathlib import Path

from qamro_cache.datasets.options import (
    ColumnOptions,
    RaterOptions,
    ScaleOptions,
    parse_scales,
    refuse_columns,
)
from qamro_cache.errors import OptionError
from qamro_cache.evaluation.options import WAYS, ChoiceOptions, IntervalOptions
from qamro_cache.features.expression import CONTEXTS
from qamro_cache.settings import check_settings, setting
from qamro_cache.spread import RayOptions, parse_shard

#: What ``cv`` takes.
CV_WORDS = ("system", "group", "prompt", "source", "split")
CV_CHOICES = f"{', '.join(CV_WORDS)} or a number of folds"

_MANY = "a stack of heads must fit in memory"


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a head reads of a cache, and how clips are held out from it."""

    feature: str = setting(
        "",
        "What heads read: a feature, or an expression such as 'mel.layers[2] + std(clap.audio)'.",
        default_help="the first feature",
    )
    context: str = setting(
        "none",
        "What a clip is heard beside: heads see its difference from its reference, or from the "
        "mean of its group's other clips, too.",
        choices=CONTEXTS,
    )
    cv: str = setting(
        "",
        f"How clips are held out: {CV_CHOICES}.",
        default_help="the split column, else group, else 5",
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(ChoiceOptions, IntervalOptions, ColumnOptions, ScaleOptions):
    """What `train` and `ablate` take beside their recipes."""

    axis: tuple[str, ...] = setting((), "Axis to train for; may repeat.", default_help="all")
    labels: Path | None = setting(None, "Ratings to use instead of the cache's.")
    pairs: Path | None = setting(
        None, "Table of preferences: clip_a, clip_b, winner (a, b, tie); CSV or parquet."
    )
    seeds: int = setting(5, "Heads of different initialization.", low=1, high=100_000, why=_MANY)
    stop: str = setting(
        "",
        "Early stopping on a part of the training clips, or training for --epochs.",
        choices=("", "inner", "fixed"),
        default_help="fixed; inner for a split",
    )
    keep_together: bool = setting(
        False, "Put clips that are copies of one another into one fold, whatever they are called."
    )
    baselines: str = setting(
        "usual",
        "What stands beside the heads; all: SVR (scikit-learn) and heads of Huber alone too.",
        choices=("usual", "all"),
    )
    device: str = setting("", "Torch device.", default_help="a GPU if there is one")
    precision: str = setting(
        "auto",
        "Precision of products on a GPU; auto: that of the results in --out, else tf32 where "
        "the GPU has it.",
        choices=("auto", "float32", "tf32", "bf16"),
    )

    def __post_init__(self) -> None:
        check_settings(self)
        refuse_columns(self.columns, "--labels FILE", table=self.labels is not None)
        parse_scales(self.scale)
        _ = self.kind


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions, RaterOptions, Reads):
    """What `train` takes beside the cache, the folder and the recipe."""

    text_feature: str = setting("", "Feature of the prompts.", default_help="the cache's first")
    refit: str = setting(
        "",
        "Clips that the saved head is trained on; all: of a split the judged part too.",
        choices=("", "all"),
        default_help="all but the judged part of a split",
    )
    calibrate: bool = setting(
        False,
        "Bring scores to the labels by a line, and tau to verdicts, through what heads inside each "
        "fold's training clips predict.",
    )
    save_folds: bool = setting(False, "Keep the heads of every fold too.")
    init: Path | None = setting(None, "Published Audiobox checkpoint to start from.")
    overwrite: bool = setting(False, "Replace another run in --out.")


@dataclass(frozen=True, kw_only=True)
class AblateOptions(RunOptions, RayOptions):
    """What `ablate` takes beside the caches, the folder and the cells."""

    shard: str = setting(
        "all",
        "Train the i-th of n parts of the heads, as i/n; the last part to end writes the tables.",
    )
    onto: Path | None = setting(
        None, "Cache of another listening test to judge by: heads learn from all clips of --cache."
    )
    nested: bool = setting(
        False,
        "Train heads inside the folds' training clips too: what is the best cell worth where it is "
        "chosen without the clips it is judged by?",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        spread = parse_shard(self.shard) or self.ray
        if spread and self.onto is not None:
            raise OptionError("--shard and --ray do not go with --onto, which trains few heads")
        self.refuse_without_ray(self.device)


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """What `ensemble` takes beside the grid and the folder."""

    choose: str = setting(
        "top",
        "Which cells are averaged: those of the highest clip SRCC, or one after another what "
        "raises the mean's, a cell as often as it helps.",
        choices=WAYS,
    )
    members: int = setting(
        5, "Cells that are averaged; of greedy at most, repeats included.", low=1, high=1000
    )
    calibrate: bool = setting(
        False, "Bring scores to the labels, too, by the heads that the members are chosen by."
    )
    device: str = setting("", "Torch device.", default_help="a GPU if there is one")
    overwrite: bool = setting(False, "Replace another run in --out.")

    def __post_init__(self) -> None:
        check_settings(self)
