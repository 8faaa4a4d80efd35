"""Predict listeners' mean opinion scores of generated audio from cached embeddings.

    extract(manifest="clips.csv", out="emb.h5", encoder="distillmos")   audio to a cache, once
    cache = open_cache("emb.h5")        print(cache), cache.clips, cache.labels, cache.read()
    cache.table("embedding")            a row a clip: labels, groups, systems and its vector
    cache.arrays("embedding", "mos")    the same as X, y, groups, systems for scikit-learn
    train(cache, "run", cv="group")     heads, judged on held-out clips, and one to keep
    ablate(cache, "grid", head=["mlp", "ridge"])    a grid of settings, compared
    ensemble("grid", "run")             cells of a grid averaged, as one head
    predict("run/head.safetensors", cache)          scores of clips, or of a folder of audio
    list_heads()                        names of the heads that come with the package
    Scorer.from_file("run/head.safetensors").score("clip.wav")    a head kept in memory, for sound
    calibrate("run/head.safetensors", "mine.csv")   scores on the scale of a few labels
    evaluate("run/predictions.csv", cache)          how well scores agree with listeners
    report("run")                       a page to look at
    QamroRegressor(alpha=0.2).fit(X, y)     heads on arrays, without a cache (scikit-learn)
    export_head("run", "head.onnx")     a head that runs without this package
    track("grid", "tensorboard:runs")   a row a cell for a tracker
    qamro_loss(scores, labels), QAMROLoss()         the loss alone

Where a cache, head, table of predictions or data set is wanted, a path does as well as the open
one; help(train) and the like name every option. A user's mistake is a
`qamro_cache.errors.QamroError` of one line.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qamro_cache.version import __version__ as __version__

if TYPE_CHECKING:
    from qamro_cache.cache.reader import open_cache as open_cache
    from qamro_cache.evaluation.evaluate import evaluate as evaluate
    from qamro_cache.experiments.ablate import ablate as ablate
    from qamro_cache.experiments.ensemble import ensemble as ensemble
    from qamro_cache.experiments.train import train as train
    from qamro_cache.extraction.extract import extract as extract
    from qamro_cache.heads.names import list_heads as list_heads
    from qamro_cache.integrations.export import export_head as export_head
    from qamro_cache.integrations.regressor import QamroRegressor as QamroRegressor
    from qamro_cache.integrations.tracking import track as track
    from qamro_cache.losses.qamro import QAMROLoss as QAMROLoss
    from qamro_cache.losses.qamro import qamro_loss as qamro_loss
    from qamro_cache.reports.report import report as report
    from qamro_cache.scoring.calibrate import calibrate as calibrate
    from qamro_cache.scoring.predict import predict as predict
    from qamro_cache.scoring.scorer import Scorer as Scorer

_HOME = {
    "QAMROLoss": "qamro_cache.losses.qamro",
    "QamroRegressor": "qamro_cache.integrations.regressor",
    "Scorer": "qamro_cache.scoring.scorer",
    "ablate": "qamro_cache.experiments.ablate",
    "calibrate": "qamro_cache.scoring.calibrate",
    "ensemble": "qamro_cache.experiments.ensemble",
    "evaluate": "qamro_cache.evaluation.evaluate",
    "export_head": "qamro_cache.integrations.export",
    "extract": "qamro_cache.extraction.extract",
    "list_heads": "qamro_cache.heads.names",
    "open_cache": "qamro_cache.cache.reader",
    "predict": "qamro_cache.scoring.predict",
    "qamro_loss": "qamro_cache.losses.qamro",
    "report": "qamro_cache.reports.report",
    "track": "qamro_cache.integrations.tracking",
    "train": "qamro_cache.experiments.train",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
