"""What is asked of `evaluate`, checked once, before torch is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from qamro_cache.cache.reader import Cache, CacheLike, open_cache
from qamro_cache.datasets.axes import with_scales
from qamro_cache.datasets.options import parse_scales, refuse_columns
from qamro_cache.datasets.raters import with_raters_apart
from qamro_cache.datasets.records import Dataset
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.errors import OptionError
from qamro_cache.evaluation.files import is_table, predictions_file, read_truth
from qamro_cache.evaluation.options import EvaluateOptions
from qamro_cache.paths import PathLike, as_path
from qamro_cache.settings import from_options


@dataclass(frozen=True)
class EvaluateRequest:
    """An evaluation that can begin.

    Attributes:
        predictions: file, or a table of `predict`.
        truth: the labels.
        options: as given.
        cache: open, where the labels are those of one.
    """

    predictions: Path | pd.DataFrame
    truth: Dataset
    options: EvaluateOptions
    cache: Cache | None = None


def evaluate_request(
    predictions: PathLike | pd.DataFrame,
    labels: CacheLike | Dataset | None,
    given: Mapping[str, Any],
) -> EvaluateRequest:
    """Check what is asked of `evaluate`, and read the labels.

    Args:
        predictions: file, folder of a run, or a table of `predict`.
        labels: the truth: a data set, a cache (``.h5``, or open) or a CSV; or name ``dataset``.
        given: fields of `EvaluateOptions`. ``axis_map`` may be a mapping.

    Raises:
        QamroError: an option cannot be right, or the labels cannot be read.
    """
    pairs = given.get("axis_map", ())
    if isinstance(pairs, Mapping):
        given = {**given, "axis_map": [f"{theirs}={ours}" for theirs, ours in pairs.items()]}
    options: EvaluateOptions = from_options(EvaluateOptions, given)
    if (labels is None) == (not options.dataset):
        raise OptionError("name the truth with either --labels or --dataset")
    refuse_columns(options.columns, "--labels FILE", table=is_table(labels))
    if labels is None:
        labels = load_dataset(options.dataset, options.data_dir)
    cache = None if is_table(labels) or isinstance(labels, Dataset) else open_cache(labels)
    truth = labels if isinstance(labels, Dataset) else read_truth(cache or labels, options.columns)
    if options.scale:
        clip_ids = truth.clips["clip_id"].tolist()
        scaled = with_scales(truth.labels, parse_scales(options.scale), clip_ids)
        truth = replace(truth, labels=scaled)
    if not isinstance(predictions, pd.DataFrame):
        predictions = predictions_file(as_path(predictions, "a file of predictions"))
    inside = tuple(map(predictions_file, options.baseline))
    options = replace(options, baseline=inside)
    return EvaluateRequest(predictions, with_raters_apart(truth), options, cache)
