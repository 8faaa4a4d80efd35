"""The main job on real audio with real ratings: extract, train, and the README's figures.

    python benchmarks/cvssp.py ../shared/data/cvssp-separation

Runs qamro-extract and qamro-train with their defaults on `cvssp-separation` (docs/datasets.md says
where to get it), leave one song out, and writes benchmarks/results/cvssp.json. Besides the
figures of metrics.json it has the clip SRCC on the clips of the separation systems alone: the
reference and the two anchors are easy to tell, and knowing only which they are ranks well already.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

ANCHORS = ("ref", "Quality", "Interferer")
AXES = ("quality", "interferer")


def run(*command: str) -> float:
    """Run one of our commands; return its seconds."""
    start = time.perf_counter()
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
    return time.perf_counter() - start


def averaged_srcc(table: pd.DataFrame) -> float:
    """Clip SRCC of the held-out predictions averaged over the seeds."""
    mean = table.groupby("clip_id")[["prediction", "target"]].mean()
    return float(spearmanr(mean["prediction"], mean["target"]).statistic)


def main() -> None:
    """Measure, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=Path, help="folder of cvssp-separation")
    parser.add_argument("--out", type=Path, help="JSON to write.")
    args = parser.parse_args()
    record: dict[str, object] = {
        "command": "python benchmarks/cvssp.py DATA_DIR",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}",
    }
    with tempfile.TemporaryDirectory() as folder:
        cache, out = f"{folder}/emb.h5", f"{folder}/run"
        source = ["--dataset", "cvssp-separation", "--data-dir", str(args.data_dir)]
        record["extract_seconds"] = run(
            "qamro-extract", *source, "--encoder", "distillmos", "--out", cache, "--device", "cpu"
        )
        axes = [word for axis in AXES for word in ("--axis", axis)]
        record["train_seconds"] = run(
            "qamro-train", "--cache", cache, "--cv", "group", *axes, "--out", out
        )
        record["metrics"] = json.loads(Path(out, "metrics.json").read_text())
        table = pd.read_csv(Path(out, "predictions.csv"))
        separated = table[~table["system"].isin(ANCHORS)]
        record["clip_srcc_separation_systems"] = {
            axis: averaged_srcc(separated[separated["axis"] == axis]) for axis in AXES
        }
    print(json.dumps(record["clip_srcc_separation_systems"], indent=2))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
