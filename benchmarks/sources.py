"""Two real tests learned together: against each alone, against one heap, and one left out.

    python benchmarks/sources.py ../shared/data --work FOLDER --out results.json

Extracts `codec-mushra` and `cvssp-separation` with distillmos (caches that are in FOLDER stay),
names each file's test, and trains ridge on their axis quality, both 0 to 100: of each test alone;
of both with ``source``; of both as if they were one test; leave one group out. And with ``source``,
leave one test out, where a head has learned from the other test alone. Every row is judged on the
clips of one test, without references, pooled and within groups, with intervals; ``gap`` is the
difference to the test alone, with its paired 95 % interval.
"""

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache import extract, open_cache
from qamro_cache.cache.edit import relabel_cache
from qamro_cache.evaluation.compare import columns, paired_gap
from qamro_cache.evaluation.score import score_models
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.train import run_train
from qamro_cache.files import json_text

SETS = ("codec-mushra", "cvssp-separation")
HEADS: dict[str, dict[str, Any]] = {"ridge": {"head": "ridge"}}
FIGURES = ("clip_srcc", "group_srcc")


def caches(data: Path, work: Path, *, source: bool) -> list[Path]:
    """Return a cache of each set with the axis quality alone; ``source``: that names its test."""
    made = []
    for name in SETS:
        whole = work / f"{name}-distillmos.h5"
        if not whole.exists():
            extract(name, whole, "distillmos", data_dir=data / name)
        cache = open_cache(whole)
        of = cache.labels.ratings
        assert of is not None
        mine = of.axis == cache.labels.axis_index("quality")
        clips = cache.clips.iloc[of.clip[mine]][["clip_id"]]
        table = clips.assign(rater=np.array(of.raters)[of.rater[mine]], quality=of.score[mine])
        table.to_csv(work / f"{name}-quality.csv", index=False)
        made.append(work / f"{name}{'-source' if source else '-bare'}.h5")
        given = {"scale": ["quality=0:100"], **({"source": name} if source else {})}
        relabel_cache(whole, work / f"{name}-quality.csv", made[-1], **given)
    return made


def predictions(cache: Any, out: Path, given: dict[str, Any]) -> tuple[pd.Series, Any]:
    """Train, and return the held-out predictions by clip with what was asked."""
    without = [f"system={name}" for name in ("Reference", "ref")]
    known = set(np.concatenate([open_cache(one).clips["system"] for one in np.atleast_1d(cache)]))
    without = [text for text in without if text.partition("=")[2] in known]
    request = train_request(cache, out, {"overwrite": True, "without": without, **given})
    run_train(request)
    table = pd.read_csv(out / "predictions.csv")
    return table.groupby("clip_id")["prediction"].mean(), request


def main() -> None:
    """Extract, train, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with both sets")
    parser.add_argument("--work", type=Path, required=True, help="caches and runs, kept")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "command": "python benchmarks/sources.py DATA --work FOLDER",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}",
        "rows": [],
    }
    named = caches(args.data, args.work, source=True)
    bare = caches(args.data, args.work, source=False)
    for head, given in HEADS.items():
        out = args.work / f"sources-{head}"
        together = {
            "together": predictions(named, out / "together", {"cv": "group", **given})[0],
            "one heap": predictions(bare, out / "heap", {"cv": "group", **given})[0],
            "other test": predictions(named, out / "out", {"cv": "source", **given})[0],
        }
        for name, cache in zip(SETS, bare, strict=True):
            alone, request = predictions(cache, out / name, {"cv": "group", **given})
            ((clips, held_out),) = request.groups
            judged = clips.judged(0, held_out.folds, held_out.cv)
            ids = clips.table["clip_id"]
            plain = alone.reindex(ids).to_numpy()
            for way, found in {"alone": alone, **together}.items():
                pred = found.reindex(ids).to_numpy()
                (scored,) = score_models({"": pred[None]}, judged, own_units=[""]).values()
                row = {"set": name, "head": head, "learned": way, "clips": scored["clips"]}
                figures = columns(scored, parts=("low", "high"))
                row |= {n: v for n, v in figures.items() if n.startswith(FIGURES)}
                for figure in FIGURES:
                    gap = paired_gap(pred, plain, judged, figure)
                    row[f"{figure}_gap"] = None if gap is None or way == "alone" else list(gap)
                record["rows"].append(row)
                gaps = [row[f"{figure}_gap"] for figure in FIGURES]
                shown = [f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})" for g in gaps if g]
                print(name, head, way, *(f"{row[figure]:.3f}" for figure in FIGURES), *shown)
    if args.out:
        args.out.write_text(json_text(record) + "\n")


if __name__ == "__main__":
    main()
