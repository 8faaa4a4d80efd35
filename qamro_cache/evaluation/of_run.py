"""What a run says of its own predictions: the ``metrics.json`` beside them."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qamro_cache.evaluation.files import name_of
from qamro_cache.evaluation.kinds import Kind
from qamro_cache.evaluation.options import EvaluateOptions

logger = logging.getLogger("qamro_cache")


@dataclass(frozen=True)
class OfRun:
    """What is known of predictions that a run made; empty for any others.

    Attributes:
        encoder: of the cache.
        feature: that the heads read.
        split: how clips were held out, in words.
        heads: axis -> what its heads are called.
        interval: the kind that the run's figures have.
    """

    encoder: str = ""
    feature: str = ""
    split: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)
    interval: Kind | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What `evaluate` returns of it."""
        return {"encoder": self.encoder, "feature": self.feature, "split": self.split}


def of_run(predictions: Path | pd.DataFrame) -> OfRun:
    """Return what a run of qamro-train or qamro-ensemble says of its predictions."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        if name_of(predictions).name == "predictions.csv":
            text = name_of(predictions).with_name("metrics.json").read_text(encoding="utf-8")
            record = json.loads(text)
            axes = record["axes"].items()
            heads = {axis: next(iter(one["models"])) for axis, one in axes if "models" in one}
            encoder, feature, split = (str(record[name]) for name in OfRun().origin)
            return OfRun(encoder, feature, split, heads, Kind.of_record(record))
    return OfRun()


def kind_for(run: OfRun, options: EvaluateOptions, clips: pd.DataFrame) -> Kind:
    """Return the kind of interval: as told, else as the predictions' own run has it.

    Args:
        run: of the predictions.
        options: as given.
        clips: of the labels; where none has a label of what the run's are over, they are not its.
    """
    if options.says_interval or run.interval is None:
        return options.kind
    ways = {"system": ("system",), "group": ("group", "prompt")}.get(run.interval.over, ())
    if ways and not any((clips[way] != "").any() for way in ways):
        return options.kind
    logger.info(
        "intervals as the predictions' run has them (%s); --interval or --over says otherwise",
        run.interval.words,
    )
    for path in options.baseline:
        other = of_run(path).interval
        if other not in (None, run.interval):
            logger.info("%s: its run has others (%s)", path, other.words)
    return run.interval
