"""What pairs cost, and what they give against the means of the same ratings.

    python benchmarks/pairs.py --step
    python benchmarks/pairs.py --cache codec-distillmos.h5 --without system=Reference
    python benchmarks/pairs.py --cache cvssp-distillmos.h5 --without system=ref

``--out FILE`` writes the figures; those of the documents are in benchmarks/results.

``--step``: a step over P pairs against a step of P clips, heads of 256-64-1 on synthetic rows of
512 numbers, in turns on the same machine; the medians of ``--repeats`` and their ratio.

``--cache``: real pairs are made of the raters' ratings within trials (`qamro-cache pairs`). Linear
heads are trained on the clips' mean ratings with the default loss, on the pairs alone with ``bt``,
and on both, with the same folds: one group left out at a time, without the references, and where
they have a tau with ``calibrate`` too. All are
judged by held-out means and by held-out pairs; differences are paired, with 95 % intervals.
"""

import argparse
import datetime
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qamro_cache.cache.pairs import write_pairs
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.preferences import Pairs, read_pairs
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.preferences import Said, held_pairs, pair_difference
from qamro_cache.experiments.train import train
from qamro_cache.files import write_json
from qamro_cache.heads.file import load_head
from qamro_cache.heads.network import Rows
from qamro_cache.scoring.predict import predict
from qamro_cache.training.backend import choose_backend
from qamro_cache.training.inputs import Folds, Inputs, Targets
from qamro_cache.training.recipe import DEFAULT_LOSS, Job, make_recipe
from qamro_cache.training.stack import Stack

CLIPS, WIDTH, HEADS = 2048, 512, 12
#: Of the heads on real pairs: quick ones, with as many clips or pairs a step as there are.
HEAD = {"head": "linear", "batch_size": 1024, "epochs": 40}
LOSSES = {"means": DEFAULT_LOSS, "pairs": "bt", "both": f"{DEFAULT_LOSS}+bt"}


def stack(loss: str, batch: int, device: torch.device) -> Stack:
    """Return heads on synthetic rows and labels, and as many synthetic pairs as clips."""
    random = np.random.default_rng(0)
    ends = random.integers(0, CLIPS, (CLIPS, 2))
    ends[:, 1] = (ends[:, 0] + 1 + ends[:, 1] % (CLIPS - 1)) % CLIPS
    winner = random.integers(-1, 2, CLIPS)
    pairs = Pairs(ends, np.zeros(CLIPS, np.int64), winner, winner * 0, np.ones(CLIPS))
    rows = torch.from_numpy(random.normal(size=(CLIPS, WIDTH))).float().to(device)
    labels = torch.from_numpy(random.integers(5, 26, (1, CLIPS)) / 5.0).to(device)
    nothing = np.zeros((1, CLIPS), np.bool_)
    targets = Targets(
        labels, torch.tensor([[1.0, 5.0]], dtype=torch.float64).to(device), None, pairs
    )
    inputs = Inputs({0: Rows(rows)}, None, targets, Folds(~nothing, nothing, nothing))
    recipe = make_recipe({"loss": loss, "batch_size": batch})
    jobs = [Job(recipe, seed=seed) for seed in range(HEADS)]
    return Stack(inputs, jobs, choose_backend(recipe, device))


def steps(repeats: int, device: torch.device) -> list[dict[str, Any]]:
    """Time a step of pairs in turns with a step of clips."""
    rows = []
    for batch in (64, 256):
        stacks = {
            loss: stack(loss, batch, device) for loss in ("huber@standardized", DEFAULT_LOSS, "bt")
        }
        epochs = {loss: one.batches.epoch(0) for loss, one in stacks.items()}
        taken: dict[str, list[float]] = {loss: [] for loss in stacks}
        for turn in range(repeats + 1):
            for loss, one in stacks.items():
                start = time.perf_counter()
                with torch.no_grad():
                    for step in epochs[loss]:
                        one._step(step)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    taken[loss].append((time.perf_counter() - start) / len(epochs[loss]))
        medians = {loss: statistics.median(found) for loss, found in taken.items()}
        for loss in stacks:
            ratio = medians["bt"] / medians[loss]
            rows.append({"batch": batch, "loss": loss, "seconds": medians[loss], "bt_to_it": ratio})
            print(f"{batch:5} {loss:45} {1e3 * medians[loss]:8.2f} ms  bt / it {ratio:.2f}")
    return rows


def of_folds(run: Path, cache: Path) -> dict[str, dict[str, Any]]:
    """Return what the heads of each fold predict of all clips: axis -> fold -> ([C], tau, tie)."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((run / "folds").glob("*.safetensors")):
        head = load_head(path)
        table = predict(head, cache)
        for one in head.axes:
            mine = table[table["axis"] == one.axis.name]["prediction"].to_numpy(np.float64)
            learned = one.preference
            tau, tie = (np.nan, np.nan) if learned is None else (learned.tau, learned.tie)
            found.setdefault(one.axis.name, {})[str(head.training["held_out"])] = (mine, tau, tie)
    return found


def differences(
    runs: dict[str, Path], cache: Path, file: Path, axis: str, group: np.ndarray[Any, Any]
) -> list[dict[str, Any]]:
    """Hold the runs against that of means: paired differences on held-out means and pairs."""
    clips = open_cache(cache).clips["clip_id"].tolist()
    pairs, axes = read_pairs(file, clips)
    pairs = pairs.on([axes.index(axis)])
    said, rows = {}, None
    for name, run in runs.items():
        folds = of_folds(run, cache)[axis]
        test = np.stack([group == held for held in folds])
        judged = pd.read_csv(run / "predictions.csv")["clip_id"]
        known = np.isin(clips, judged)
        kept = pairs.at(np.flatnonzero(known), len(clips))
        rows = held_pairs(kept, test[:, known])
        each = list(folds.values())
        a, b = kept.clips[rows.pair].T
        score = np.stack([one[0][known] for one in each])
        gap = score[rows.fold, a] - score[rows.fold, b]
        tau, tie = (np.array([one[k] for one in each])[rows.fold] for k in (1, 2))
        said[name] = Said(gap, tau, tie)
    assert rows is not None
    found = []
    for ours, theirs in (("pairs", "means"), ("both", "means"), ("both", "pairs")):
        one = pair_difference("accuracy", rows, said[ours], said[theirs])
        found.append({"axis": axis, "of": ours, "less": theirs, "figure": "pair accuracy", **one})
        other = runs[theirs] / "predictions.csv"
        compared = evaluate(runs[ours] / "predictions.csv", cache, baseline=[other])
        said_of = compared["axes"][axis]["verdicts"]
        verdict = next(one for one in said_of if one["baseline"] == other.name)
        value = {"value": verdict["difference"], "low": verdict["low"], "high": verdict["high"]}
        found.append({"axis": axis, "of": ours, "less": theirs, "figure": "clip SRCC", **value,
                      "within": verdict["within"]})  # fmt: skip
    return found


def told(axis: str, kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """Print and return the figures of a run's heads on one axis."""
    head, pairs = found["models"]["qamro head"], found["pairs"]
    shown = {
        name: {part: one[part] for part in ("value", "low", "high")}
        for name, one in {**head["metrics"], **pairs["figures"]}.items()
        if name in ("clip_srcc", "group_srcc", "system_srcc") or name in pairs["figures"]
    }
    values = "  ".join(
        f"{name} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
        for name, one in shown.items()
    )
    print(f"{axis}, {kind}: {values}", flush=True)
    about = {
        "pairs": pairs["counts"],
        "over": head["population"],
        "pairs_over": pairs["population"],
    }
    loss = LOSSES[kind.partition(",")[0]]
    return {"axis": axis, "learned": kind, "loss": loss, **shown, **about}


def real(cache: Path, seeds: int, without: str) -> dict[str, Any]:
    """Train on means, pairs and both; return their figures and the paired differences."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = write_pairs([cache], folder / "pairs.csv")
        runs: dict[str, Path] = {}
        figures = []
        for kind, loss in LOSSES.items():
            for calibrate in (False, True) if "bt" in loss else (False,):
                name = kind + ", calibrated" * calibrate
                record = train(
                    cache, folder / name, pairs=folder / "pairs.csv", loss=loss, cv="group",
                    seeds=seeds, without=(without,), save_folds=True, calibrate=calibrate, **HEAD,
                )  # fmt: skip
                figures += [told(axis, name, found) for axis, found in record["axes"].items()]
            runs[kind] = folder / kind
        table = open_cache(cache).clips
        group = table["group"].to_numpy(dtype=str)
        apart = [
            row for axis in record["axes"]
            for row in differences(runs, cache, folder / "pairs.csv", axis, group)
        ]  # fmt: skip
        for row in apart:
            print(f"{row['axis']}: {row['figure']} of {row['of']} less {row['less']}: "
                  f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]")  # fmt: skip
        return {"dataset": record["dataset"], "synthetic": record["synthetic"], "made": counts,
                "seeds": seeds, "rows": figures, "differences": apart}  # fmt: skip


def main() -> None:
    """Run one of both, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--step", action="store_true")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--without", default="system=ref")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    found = (
        {"rows": steps(given.repeats, device)}
        if given.step
        else real(given.cache, given.seeds, given.without)
    )
    shown = [
        f"benchmarks/results/{Path(one).name}" if one.endswith(".json") else one.rpartition("/")[2]
        for one in sys.argv[1:]
    ]
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    record = {
        "command": " ".join(["python benchmarks/pairs.py", *shown]),
        "date": datetime.date.today().isoformat(),
        "device": name or platform.machine(),
        "torch": torch.__version__,
        **found,
    }
    if given.out is not None:
        write_json(given.out, record)


if __name__ == "__main__":
    main()
