"""How large the page of a large run and a large grid is, and how soon a browser paints it.

    python benchmarks/report.py --out benchmarks/results/report-cpu.json

The files of a run over 10,000 clips and of a grid of 3,120 cells are made up as the commands would
write them (synthetic numbers: nothing is trained), made into pages, and opened in headless
Chromium where that and selenium are installed.
"""

import argparse
import datetime
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch

from qamro_cache import report
from qamro_cache.evaluation.by_system import by_system
from qamro_cache.evaluation.figures import FIGURES
from qamro_cache.evaluation.judged import Judged
from qamro_cache.evaluation.score import score_models
from qamro_cache.files import write_json, write_table

CLIPS, SYSTEMS, GROUPS, SEEDS = 10_000, 100, 500, 5
#: Figures are those of fewer clips, which takes less time; the page is as large.
SCORED = 500
AXES = ("PQ", "PC", "CE", "CU")


SYSTEM, GROUP = np.arange(CLIPS) % SYSTEMS, np.arange(CLIPS) // (CLIPS // GROUPS)
IDS = [f"set-system{s:03}-group{g:04}-clip{k:05}"
       for k, (s, g) in enumerate(zip(SYSTEM, GROUP, strict=True))]  # fmt: skip
AUDIO = {name: f"/sounds/{name}.wav" for name in IDS}


def rows_of(axis: str, target: np.ndarray, pred: np.ndarray) -> list[pd.DataFrame]:
    """Return the rows of ``predictions.csv``, a table a seed."""
    columns = {"clip_id": IDS, "system": [f"system{s:03}" for s in SYSTEM],
               "group": [f"group{g:04}" for g in GROUP], "axis": axis}  # fmt: skip
    return [
        pd.DataFrame({**columns, "seed": k, "fold": "0", "prediction": row, "target": target})
        for k, row in enumerate(pred)
    ]


def made_run(folder: Path) -> None:
    """Write the files of a run over `CLIPS` clips and four axes."""
    rng = np.random.default_rng(0)
    axes, tables = {}, []
    for axis in AXES:
        target = np.clip(rng.normal(6, 1.5, CLIPS), 1, 10).round(1)
        pred = target + rng.normal(0, 1, (SEEDS, CLIPS))
        judged = Judged(target, SYSTEM, group=GROUP)
        few = Judged(target[:SCORED], SYSTEM[:SCORED], group=GROUP[:SCORED])
        models = {"qamro head": pred, "ridge": target[None] + rng.normal(0, 1.2, (1, CLIPS))}
        means = by_system(pred.mean(0), judged, [f"system{s:03}" for s in SYSTEM])
        axes[axis] = {
            "range": [1.0, 10.0],
            "models": score_models({n: p[:, :SCORED] for n, p in models.items()}, few),
            "verdicts": [],
            "ceiling": None,
            "error_sources": None,
            "by_system": means,
            "diagnostics": [],
        }
        tables += rows_of(axis, target, pred)
    origin = {"dataset": "made up", "synthetic": True, "encoder": "none", "feature": "embedding"}
    write_json(folder / "metrics.json", {**origin, "split": "made up", "copies": {}, "axes": axes})
    write_json(folder / "config.json", {**origin, "identity_sha256": "0" * 64, "audio": AUDIO})
    write_table(folder / "predictions.csv", pd.concat(tables))


def made_grid(folder: Path) -> None:
    """Write the files of a grid of 3,120 cells over `CLIPS` clips: 13 x 12 x 4 x 5."""
    rng = np.random.default_rng(0)
    axes = {"alpha": np.linspace(0.05, 1, 13), "beta": np.linspace(1, 12, 12),
            "lr": [1e-4, 2e-4, 5e-4, 1e-3], "batch_size": [16, 32, 64, 128, 256]}  # fmt: skip
    grid = pd.DataFrame(
        {name: values.ravel() for name, values in
         zip(axes, np.meshgrid(*axes.values(), indexing="ij"), strict=True)}
    )  # fmt: skip
    rows = grid.assign(model="head", axis="quality", seeds=5, clips=1000, systems=40, groups=100)
    for name in FIGURES:
        rows[name] = rng.normal(0.7, 0.05, len(rows))
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - 0.1, rows[name] + 0.1
    rows["clip_srcc_seeds_std"], rows["mcs_p"], rows["diverged"] = 0.01, 0.5, 0
    rows["population"], rows["signature"] = "over systems and groups", "made up"
    write_table(folder / "summary.csv", rows)
    top = rows.sort_values("clip_srcc", ascending=False)
    cells = [{name: float(row[name]) for name in axes} for _, row in top.iterrows()]
    alike = [
        {"cell": cell, "clip_srcc": 0.7, "mcs_p": 0.5, "gap_95": None} for cell in cells[1:900]
    ]
    best = {"metric": "clip_srcc", "cell": cells[0], "clip_srcc": float(top["clip_srcc"].iloc[0]),
            "cells": len(cells), "nested": None,
            "clearly_best": False, "not_told_apart": alike, "note": "made up", "verdicts": [],
            "ceiling": None, "baseline": None}  # fmt: skip
    questions = [{"cv": "group", "split": "made up"}]
    origin = {"dataset": "made up", "synthetic": True}
    write_json(folder / "best.json",
               {**origin, "questions": questions, "axes": {"quality": best}})  # fmt: skip
    write_json(folder / "config.json", {"seeds": SEEDS, "cells": cells, "audio": AUDIO})
    target = np.clip(rng.normal(6, 1.5, CLIPS), 1, 10).round(1)
    predictions = rows_of("quality", target, target + rng.normal(0, 1, (SEEDS, CLIPS)))
    write_table(folder / "predictions.csv", pd.concat(predictions))


def paints(page: Path, times: int = 5) -> list[float] | None:
    """Return the milliseconds to a page's first paint, each time; None without a browser."""
    try:
        from selenium import webdriver
    except ImportError:
        return None
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(word)
    options.binary_location = browser
    found = []
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        for _ in range(times):
            chrome.get(page.as_uri())
            found.append(
                chrome.execute_async_script(
                    "const done = arguments[0];"
                    "new PerformanceObserver((list) => done(list.getEntries()[0].startTime))"
                    ".observe({ type: 'paint', buffered: true });"
                )
            )
            chrome.get("about:blank")
    return found


def main() -> None:
    """Make the pages, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON to write.")
    args = parser.parse_args()
    record: dict[str, object] = {
        "command": "python benchmarks/report.py",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
        "synthetic": True,
        "run": f"{CLIPS} clips, {len(AXES)} axes, {SEEDS} seeds",
        "grid": f"3120 cells, {CLIPS} clips, 1 axis, {SEEDS} seeds",
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, make in (("run", made_run), ("grid", made_grid)):
            folder = Path(temporary, name)
            folder.mkdir()
            make(folder)
            start = time.perf_counter()
            page = report(folder)
            seconds = time.perf_counter() - start
            painted = paints(page)
            size = page.stat().st_size / 1e6
            record |= {f"{name}_megabytes": size, f"{name}_seconds": seconds,
                       f"{name}_first_paint_ms": painted}  # fmt: skip
            when = f"first paint after {median(painted):.0f} ms" if painted else "no browser here"
            print(f"{record[name]}: {size:.2f} MB, made in {seconds:.1f} s, {when}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
