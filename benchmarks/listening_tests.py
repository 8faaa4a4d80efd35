"""The main job on real audio with real ratings, two listening tests: the README's figures.

    python benchmarks/listening_tests.py DATA --out benchmarks/results/listening-tests.json

Runs qamro-extract (`distillmos`) and qamro-train with their defaults on `cvssp-separation` and
`codec-mushra` (docs/datasets.md says where to get them), leaves one song or signal out at a time,
and prints the README's tables. Besides what metrics.json has, the first set has the clip SRCC on
its separation systems alone: the reference and the two anchors are easy to tell, and knowing only
which they are ranks well already.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

SETS = ("cvssp-separation", "codec-mushra")
ANCHORS = ("ref", "Quality", "Interferer")
SHOWN = ("qamro head", "ridge", "kNN", "distillmos mos")


def run(*command: str) -> None:
    """Run one of our commands."""
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)


def averaged_srcc(table: pd.DataFrame) -> float:
    """Clip SRCC of the held-out predictions averaged over the seeds."""
    mean = table.groupby("clip_id")[["prediction", "target"]].mean()
    return float(spearmanr(mean["prediction"], mean["target"]).statistic)


def measured(name: str, data: Path, caches: Path, out: Path) -> dict[str, Any]:
    """Extract and train a set; return what is known of it."""
    cache = str(caches / f"{name}.h5")
    source = ("--dataset", name, "--data-dir", str(data / name))
    encoder = ("--encoder", "distillmos", "--device", "cpu")
    run("qamro-extract", *source, *encoder, "--out", cache)
    run("qamro-train", "--cache", cache, "--cv", "group", "--out", str(out))
    record: dict[str, Any] = {"metrics": json.loads((out / "metrics.json").read_text())}
    table = pd.read_csv(out / "predictions.csv")
    if name == SETS[0]:
        separated = table[~table["system"].isin(ANCHORS)]
        record["clip_srcc_separation_systems"] = {
            str(axis): averaged_srcc(part) for axis, part in separated.groupby("axis")
        }
    return record


def show(name: str, record: dict[str, Any]) -> None:
    """Print a set's rows of the README's table, its verdicts and its ceiling."""

    def value(model: dict[str, Any], figure: str, form: str = ".3f") -> str:
        found = model["metrics"].get(figure)
        return "" if found is None else f"{found['value']:{form}}"

    def span(model: dict[str, Any], figure: str) -> str:
        found = model["metrics"][figure]
        return f"{found['low']:.2f} to {found['high']:.2f}"

    for axis, scored in record["metrics"]["axes"].items():
        for shown in SHOWN:
            model = scored["models"][shown]
            srcc = model["metrics"]["clip_srcc"]
            seeds = ""
            if model["seeds"] > 1:
                seeds = f"{srcc['seeds_mean']:.3f} ± {srcc['seeds_std']:.3f}"
            cells = [axis, shown, value(model, "clip_mse", ".0f"), value(model, "clip_lcc")]
            cells += [value(model, "clip_srcc"), span(model, "clip_srcc"), seeds]
            cells += [value(model, "group_srcc"), value(model, "system_srcc")]
            print(f"| {' | '.join([*cells, span(model, 'system_srcc')])} |")
        for one in scored["verdicts"]:
            print(f"{name} {axis}: {one['words']}")
        print(f"{name} {axis}: ceiling {scored['ceiling']['figures']['clip_srcc']:.3f}")
    if "clip_srcc_separation_systems" in record:
        print(name, "separation systems alone:", record["clip_srcc_separation_systems"])


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with a folder of each set")
    parser.add_argument("--caches", type=Path, help="keep the caches there, or go on with them")
    parser.add_argument("--out", type=Path, help="JSON to write.")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "command": "python benchmarks/listening_tests.py DATA",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}",
        "sets": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in SETS:
            caches = args.caches or Path(folder)
            result["sets"][name] = measured(name, args.data, caches, Path(folder, name))
            show(name, result["sets"][name])
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
