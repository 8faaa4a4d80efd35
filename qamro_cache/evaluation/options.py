"""The options of `evaluate` beside the predictions and the labels."""

from dataclasses import dataclass
from pathlib import Path

from qamro_cache.datasets.options import ColumnOptions, ScaleOptions
from qamro_cache.errors import OptionError
from qamro_cache.evaluation.kinds import KINDS, OVER, Kind
from qamro_cache.settings import check_settings, setting

#: Draws of a bootstrap where nobody said.
_DRAWS = 1000


#: How the members of an ensemble are chosen; see `ensembles.Chooser`.
WAYS = ("top", "greedy")


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """Which clips count."""

    only: tuple[str, ...] = setting(
        (), "Use only the clips that have COLUMN=VALUE; may repeat.", default_help="all clips"
    )
    without: tuple[str, ...] = setting(
        (),
        "Leave out the clips that have COLUMN=VALUE, for example system=Reference; may repeat.",
        default_help="none",
    )


@dataclass(frozen=True, kw_only=True)
class IntervalOptions:
    """How intervals are computed."""

    interval: str = setting(
        "",
        "How intervals are found: over systems and groups by a jackknife, or over systems by a "
        "bootstrap.",
        choices=("", *KINDS),
        default_help="jackknife",
    )
    over: str = setting(
        "",
        "What intervals are over, that is, what would differ in another test: the systems alone, "
        "or the groups (or prompts) alone while these systems stay, as in leave-one-group-out.",
        choices=("", *OVER),
        default_help="both",
    )
    resamples: int | None = setting(
        None,
        "Draws of the bootstrap, which this asks for; 0: no intervals.",
        low=0,
        high=10_000,
        why="each scores every clip again",
        default_help="1000 with --interval bootstrap",
    )

    @property
    def says_interval(self) -> bool:
        """Whether anything was said of the kind of interval."""
        return bool(self.interval or self.over) or self.resamples is not None

    @property
    def kind(self) -> Kind:
        """The kind of interval, with the draws of a bootstrap (0: no interval).

        Raises:
            OptionError: draws are asked of a kind that takes none, or a way of one that has one.
        """
        name = self.interval or ("jackknife" if self.resamples is None else "bootstrap")
        if name == "bootstrap":
            if self.over:
                raise OptionError("--over is for the jackknife; the bootstrap is over systems")
            return Kind(name, _DRAWS if self.resamples is None else self.resamples)
        if self.resamples is not None:
            raise OptionError(f"--resamples is for --interval bootstrap; the {name} draws none")
        return Kind(name, over=self.over)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ChoiceOptions, IntervalOptions, ColumnOptions, ScaleOptions):
    """What `evaluate` takes beside the predictions and the labels."""

    dataset: str = setting("", "The truth: a data set by name, with --data-dir.")
    data_dir: Path | None = setting(None, "The folder of the data set.")
    axis_map: tuple[str, ...] = setting(
        (),
        "Compare axes of different names, PREDICTED=LABEL; rank and linear-fit figures only. "
        "May repeat.",
    )
    split: str = setting("", "Only the clips of this split.")
    include_trained: bool = setting(
        False, "Score although the head was trained on all clips, or on clips alike."
    )
    baseline: tuple[Path, ...] = setting(
        (),
        "Another model's scores of the same clips: a table of clip_id and one score in its own "
        "units, or a predictions.csv; may repeat.",
        default_help="none",
    )
    answer_list: Path | None = setting(None, "The challenge's list, which answer.txt must match.")

    def __post_init__(self) -> None:
        check_settings(self)
        _ = self.axes, self.kind

    @property
    def axes(self) -> dict[str, str]:
        """Predicted axis -> axis of the labels."""
        pairs = dict(pair.partition("=")[::2] for pair in self.axis_map)
        if not all(pairs.values()):
            raise OptionError("--axis-map takes PREDICTED=LABEL")
        if len(pairs) < len(self.axis_map):
            raise OptionError("--axis-map names a predicted axis twice; map it once a run")
        return pairs
