"""What a clip's company is worth on both real sets: encoders x context, with references or not.

    python benchmarks/context.py ../shared/data --work FOLDER --out results.json

Extracts `codec-mushra`, once with the screened ratings and once with those of all listeners, and
`cvssp-separation` with distillmos and resemblyzer (what is in FOLDER already stays), and trains a
grid of each set twice, leave one group out: with its references, judged with and without them, and
without them from the start. Figures are pooled over clips and
within groups, with their intervals; ``gap`` is the pooled clip SRCC less that of the same head
without context, with its paired 95 % interval. On both kinds of ratings of `codec-mushra` ridge is
tried with each penalty and ways to scale the group's features, too: what of a difference between
two figures is of these. ``--layers`` adds a sweep over the 13 layers of a HuBERT-base of random
weights on `codec-mushra`, in one run. ``--speed`` adds how long a stack trains with context, over
the same width without (a synthetic cache).
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
from scipy.stats import spearmanr

from qamro_cache import extract, open_cache
from qamro_cache.evaluation.compare import columns, paired_gap
from qamro_cache.evaluation.score import score_models
from qamro_cache.experiments.ablate import _plan, part_material, run_ablate
from qamro_cache.experiments.fitting import fit_all
from qamro_cache.experiments.outcomes import head_outcomes, without_references
from qamro_cache.experiments.request import ablate_request, train_request
from qamro_cache.experiments.store import read_stacks
from qamro_cache.experiments.train import _jobs
from qamro_cache.experiments.train import _material as _read
from qamro_cache.files import json_text
from qamro_cache.heads.ridge import PENALTIES, scaling

#: Name -> the set, and what is taken of its folder; nothing named: all of it.
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "codec-mushra": ("codec-mushra", ()),
    # Without the table of the listeners who found the hidden reference, all of them count.
    "codec-mushra-unscreened": ("codec-mushra", ("audio", "ratings_formated.csv")),
    "cvssp-separation": ("cvssp-separation", ()),
}
ENCODERS = {
    "distillmos": "distillmos.embedding",
    "resemblyzer": "resemblyzer.states",
    "both": "distillmos.embedding + resemblyzer.states",
}
CONTEXTS = ("none", "group", "reference", "both")
#: What stands in the results: pooled, within groups.
FIGURES = ("clip_srcc", "group_srcc", "clip_rmse")


def grid(
    caches: list[Path], out: Path, without: bool, head: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train encoders x context on one set and return a row an axis, cell and way to judge."""
    clips = open_cache(caches[0]).clips
    systems = clips["system"][clips["reference"] == clips["clip_id"]].unique()
    given = {"feature": list(ENCODERS.values()), "context": list(CONTEXTS), "cv": "group", **head}
    if without:
        given["without"] = [f"system={name}" for name in systems]
    request = ablate_request(caches, out, "", given)
    run_ablate(request)
    outcomes = []
    for part in request.parts:
        plan = _plan(part, part_material(part, request.cells), request.cells, request.options)
        done = read_stacks(out / "done", len(part.clips.rows))
        outcomes += head_outcomes(plan, done, {}, request.cells, part.held_out.cv, {})
    if not without:
        outcomes += [other for one in outcomes if (other := without_references(one))]
    names = {feature: name for name, feature in ENCODERS.items()}
    alone = {
        (one.names["feature"], one.axis): one.predictions.mean(0)
        for one in outcomes
        if one.names["context"] == "none"
    }
    rows = []
    for one in outcomes:
        (scored,) = score_models({"head": one.predictions}, one.judged).values()
        found = columns(scored, parts=("low", "high"))
        mean, plain = one.predictions.mean(0), alone[one.names["feature"], one.axis]
        gap = paired_gap(mean, plain, one.judged, "clip_srcc")
        rows.append(
            {
                "axis": one.axis.removesuffix(" (without references)"),
                "trained_with_references": not without,
                "judged_with_references": not without and not one.axis.endswith("references)"),
                "encoders": names[one.names["feature"]],
                "context": one.names["context"],
                **{n: v for n, v in found.items() if n.startswith(FIGURES) and np.isfinite(v)},
                "gap": None if gap is None or one.names["context"] == "none" else list(gap),
            }
        )
    return rows


def scalings(caches: list[Path], out: Path) -> list[dict[str, Any]]:
    """Return the pooled SRCC of ridge, both encoders in their group, by penalty and scaling."""
    given = {"feature": ENCODERS["both"], "context": "group", "cv": "group", "head": "ridge"}
    request = train_request(caches, out, {**given, "without": ["system=Reference"]})
    ((clips, held_out),) = request.groups
    seen = _read(request, clips, held_out).seen(0)
    features, labels = seen.windows.double().numpy(), clips.labels.mean[:, 0]
    rows = []
    for over in ("training clips", "all clips"):
        for kind, blocks in (("a block", seen.blocks("audio")), ("all", (features.shape[1],))):
            for penalty in PENALTIES:
                found = np.empty(len(labels))
                for train, test in zip(held_out.folds.train, held_out.folds.test, strict=True):
                    mean, std, width = scaling(features[train if over[0] == "t" else ...], blocks)
                    x = (features - mean) / (std * width)
                    x -= x[train].mean(0)
                    y = labels[train] - labels[train].mean()
                    gram = x[train] @ x[train].T + penalty * np.eye(len(y))
                    weights = x[train].T @ np.linalg.solve(gram, y)
                    found[test] = x[test] @ weights + labels[train].mean()
                value = float(spearmanr(found, labels).statistic)
                row = {"standardized_over": over, "divided_by_root_of": kind, "penalty": penalty}
                rows.append({**row, "clip_srcc": value})
    return rows


def layers(data: Path, work: Path) -> list[dict[str, Any]]:
    """Sweep the layers of a HuBERT of random weights and return a row a layer and context."""
    import torch
    import transformers

    folder, cache = work / "hubert-random-weights", work / "codec-mushra-hubert-random-weights.h5"
    if not cache.exists():
        torch.manual_seed(0)
        transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
        extract("codec-mushra", cache, f"hf:{folder}", data_dir=data)
    given = {"feature": "layers[*]", "context": ["none", "group"], "cv": "group", "head": "ridge"}
    given["without"] = ["system=Reference"]
    run_ablate(ablate_request([cache], work / "layers", "", given))
    table = pd.read_csv(work / "layers" / "summary.csv")
    kept = [name for name in table if str(name).startswith(FIGURES)]
    return table[table["model"] == "head"][["feature", "context", *kept]].to_dict("records")


def speed(seeds: int = 4, repeats: int = 5) -> dict[str, Any]:
    """Time the same heads with context on D numbers and without on 3 D, in turn."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from synthetic_cache import write_synthetic

    with tempfile.TemporaryDirectory() as folder:
        cache = write_synthetic(Path(folder) / "emb.h5", clips=100)
        given = {"cv": "group", "axis": "quality", "seeds": seeds, "epochs": 5}
        ways = {"context": (50, "group"), "without": (150, "none")}
        made = {}
        for name, (copies, context) in ways.items():
            feature = " + ".join(["embedding"] * copies)
            request = train_request(cache, Path(folder) / name, {**given, "feature": feature,
                                                                 "context": context})  # fmt: skip
            ((clips, held_out),) = request.groups
            material = _read(request, clips, held_out)
            made[name] = material, _jobs(request.recipe, material, range(seeds))
        runs: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, (material, jobs) in made.items():
                start = time.perf_counter()
                fit_all(material, jobs, {}, "cpu", "float32", None)
                runs[name].append(time.perf_counter() - start)
    widths = [made[name][0].seen(0).windows.shape[1] for name in ways]
    assert widths[0] == widths[1]
    ratio = statistics.median(runs["context"]) / statistics.median(runs["without"])
    heads = {"heads": len(made["context"][1]), "row": widths[0]}
    return {"synthetic": True, "seconds": runs, "ratio": ratio, **heads}


def main() -> None:
    """Extract, train, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with both sets")
    parser.add_argument("--work", type=Path, required=True, help="caches and runs, kept")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--speed", action="store_true", help="time a stack with context, too")
    parser.add_argument("--layers", action="store_true", help="sweep a HuBERT's layers, too")
    args = parser.parse_args()
    record: dict[str, Any] = {
        "command": f"python benchmarks/context.py DATA --work FOLDER"
        f"{' --layers' * args.layers}{' --speed' * args.speed}",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": f"CPU, {platform.machine()}",
        "head": "ridge",
        "sets": {},
        "scalings": {},
    }
    for name, (data_set, taken) in SETS.items():
        folder = args.data / data_set
        if taken:
            folder = args.work / f"{name}-data"
            folder.mkdir(exist_ok=True, parents=True)
            for part in taken:
                if not (folder / part).exists():
                    (folder / part).symlink_to((args.data / data_set / part).resolve())
        caches = [args.work / f"{name}-{encoder}.h5" for encoder in ("distillmos", "resemblyzer")]
        for cache, encoder in zip(caches, ("distillmos", "resemblyzer"), strict=True):
            extract(data_set, cache, encoder, data_dir=folder)
        record["sets"][name] = [
            row
            for without in (False, True)
            for row in grid(
                caches,
                args.work / f"{name}-{'without' if without else 'with'}-references",
                without,
                {"head": "ridge"},
            )
        ]
        if data_set == "codec-mushra":
            record["scalings"][name] = scalings(caches, args.work / f"{name}-scalings")
            best = max(record["scalings"][name], key=lambda row: row["clip_srcc"])
            print(name, "the best of all penalties and scalings:", best)
        for row in record["sets"][name]:
            words = [row["axis"], row["encoders"], row["context"]]
            kept = (
                f"trained {row['trained_with_references']}, judged {row['judged_with_references']}"
            )
            print(name, *words, kept, *(f"{row.get(figure, np.nan):.3f}" for figure in FIGURES))
    if args.layers:
        record["layers"] = layers(args.data / "codec-mushra", args.work)
        for row in record["layers"]:
            print(row["feature"], row["context"], *(f"{row[figure]:.3f}" for figure in FIGURES))
    if args.speed:
        record["speed"] = speed()
        print(f"context over the same width without: {record['speed']['ratio']:.2f} times")
    if args.out:
        args.out.write_text(json_text(record) + "\n")


if __name__ == "__main__":
    main()
