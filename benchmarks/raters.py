"""What models of the raters are worth on both real sets: each option against plain means.

    python benchmarks/raters.py ../shared/data --work FOLDER --out results.json

Extracts `codec-mushra` and `cvssp-separation` with distillmos (caches that are in FOLDER stay) and
trains ridge and the default head (5 seeds), leave one group out, with every option by itself and
with screening and the additive model together. Rows named ``unscreened`` have the ratings of all
listeners of `codec-mushra`; the others those that its authors kept. Every figure is of the same
clips, by plain means and, for a model of the raters, by modeled labels too, pooled and within
groups, with its interval; ``gap`` is the difference to the same head that learned plain means, with
its paired 95 % interval.
"""

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qamro_cache import extract
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.evaluation.compare import columns, paired_gap
from qamro_cache.evaluation.score import score_models
from qamro_cache.experiments.labels import by_modeled
from qamro_cache.experiments.request import train_request
from qamro_cache.experiments.train import run_train
from qamro_cache.files import json_text

SETS = ("codec-mushra", "codec-mushra-unscreened", "cvssp-separation")
OPTIONS: tuple[dict[str, str], ...] = (
    {},
    {"rater_model": "standardized"},
    {"rater_model": "additive"},
    {"rater_weights": "reliability"},
    {"screen": "bs1534"},
    {"screen": "bt500"},
    {"screen": "bs1534", "rater_model": "additive"},
    {"rater_model": "additive", "rater_weights": "reliability"},
)
HEADS: dict[str, dict[str, Any]] = {"ridge": {"head": "ridge"}, "default": {"seeds": 5}}
FIGURES = ("clip_srcc", "group_srcc")


def unscreened(data: Path, work: Path) -> Path:
    """Write the ratings of all listeners of `codec-mushra` as a label file."""
    folder, table = work / "codec-mushra-unscreened-data", work / "codec-mushra-unscreened.csv"
    folder.mkdir(exist_ok=True, parents=True)
    for part in ("audio", "ratings_formated.csv"):
        if not (folder / part).exists():
            (folder / part).symlink_to((data / "codec-mushra" / part).resolve())
    rated = load_dataset("codec-mushra", folder)
    of = rated.labels.ratings
    assert of is not None
    clips = rated.clips.iloc[of.clip][["clip_id", "system", "group", "reference"]]
    raters = np.array(of.raters)[of.rater]
    clips.assign(rater=raters, quality=of.score).to_csv(table, index=False)
    return table


def one_set(
    cache: Path, out: Path, head: dict[str, Any], more: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train a head with every option on one set and return a row an axis and option."""
    rows = []
    plain: dict[str, Any] = {}
    for options in OPTIONS:
        name = "-".join(options.values()) or "plain"
        given = {"cv": "group", "overwrite": True, **head, **more, **options}
        request = train_request(cache, out / name, given)
        run_train(request)
        table = pd.read_csv(out / name / "predictions.csv")
        for clips, held_out in request.groups:
            for index, axis in enumerate(clips.axes):
                mine = table[table["axis"] == axis.name].groupby("clip_id")["prediction"].mean()
                pred = mine.reindex(clips.table["clip_id"]).to_numpy()
                plain.setdefault(axis.name, pred)
                judged = clips.judged(index, held_out.folds, held_out.cv)
                by = {"means": judged}
                modeling = request.options.modeling
                by["modeled"] = by_modeled(judged, clips, held_out.folds, index, modeling)
                for labels, one in by.items():
                    if one is None:
                        continue
                    (scored,) = score_models({"": pred[None]}, one).values()
                    found = columns(scored, parts=("low", "high"))
                    row = {"axis": axis.name, "option": name, "judged_by": labels}
                    row |= {n: v for n, v in found.items() if n.startswith(FIGURES)}
                    for figure in FIGURES:
                        gap = paired_gap(pred, plain[axis.name], one, figure)
                        row[f"{figure}_gap"] = None if gap is None or not options else list(gap)
                    rows.append(row)
    return rows


def main() -> None:
    """Extract, train, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with both sets")
    parser.add_argument("--work", type=Path, required=True, help="caches and runs, kept")
    parser.add_argument("--sets", nargs="*", default=SETS, choices=SETS, help="some of them")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "command": f"python benchmarks/raters.py DATA --work FOLDER --sets {' '.join(args.sets)}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}",
        "rows": [],
    }
    for name in args.sets:
        more: dict[str, Any] = {}
        data_set = name.removesuffix("-unscreened")
        cache = args.work / f"{data_set}-distillmos.h5"
        if not cache.exists():
            extract(data_set, cache, "distillmos", data_dir=args.data / data_set)
        if name != data_set:
            more = {"labels": unscreened(args.data, args.work), "scale": ["quality=0:100"]}
        for head, given in HEADS.items():
            for row in one_set(cache, args.work / f"{name}-raters-{head}", given, more):
                record["rows"].append({"set": name, "head": head, **row})
                words = [name, head, row["axis"], row["option"], row["judged_by"]]
                gaps = [row[f"{figure}_gap"] for figure in FIGURES]
                shown = ["" if g is None else f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})"
                         for g in gaps]  # fmt: skip
                print(*words, *(f"{row[figure]:.3f}" for figure in FIGURES), *shown, flush=True)
                if args.out:
                    args.out.write_text(json_text(record) + "\n")


if __name__ == "__main__":
    main()
