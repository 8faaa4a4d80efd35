"""The documents say what the code has and writes: tables, the map, every column and key."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from synthetic_cache import write_synthetic

from qamro_cache.cache.edit import relabel_cache
from qamro_cache.cache.pairs import write_pairs
from qamro_cache.cache.reader import open_cache
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.figures import FIGURES
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.grid import CELL
from qamro_cache.experiments.options import TrainOptions
from qamro_cache.experiments.train import train
from qamro_cache.files import json_text
from qamro_cache.scoring.predict import predict
from qamro_cache.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "commands.md").read_text()
#: What a placeholder of the documents stands for; any other for any name.
NAMES = {"figure": {*FIGURES}, "setting": {*CELL}, "option": {*settings_of(TrainOptions), *CELL}}
#: To a section whose keys stand for a row's.
LINK = r"\]\(#(a-model|a-verdict|the-ceiling|error-sources|a-system|copies)\)"
QUICK = {"epochs": 1, "widths": [4]}
ONE = {"seeds": 1, "axis": "quality"}


def test_tables_and_the_map_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    make_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_tables)
    found = set()
    for page in make_tables.PAGES:
        text = page.read_text()
        assert make_tables.filled(text) == text, f"python docs/make_tables.py changes {page.name}"
        found |= {name for _, name, _ in make_tables._PLACE.findall(text)}
    assert found == set(make_tables.TABLES)
    assert make_tables._row("|x|", "y") == r"| \|x\| | y |"
    assert "| `tables.py` | The tables of a grid" in make_tables.PAGES[0].read_text()
    assert "| `alpha` | 0.2 | QAMRO's margin" in make_tables.table(make_tables.TABLES["recipe"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Section of the documents -> what several runs write: a list of records or of columns."""
    folder = tmp_path_factory.mktemp("written")
    emb = write_synthetic(folder / "emb.h5", clips=20, own_score=True)
    other = write_synthetic(folder / "other.h5", clips=20, name="other", factor=2.0)
    table = open_cache(emb).clips[["clip_id"]].assign(quality=50.0, match=3.0)
    table["quality"] += range(len(table))
    table.loc[:6, "match"] = float("nan")
    table.to_csv(folder / "labels.csv", index=False)
    train(emb, folder / "a", cv="3", seeds=2, inputs="concat", stop="inner", **QUICK)
    train(emb, folder / "b", cv="group", head="ridge", labels=folder / "labels.csv")
    named = table[["clip_id"]].assign(reference=table["clip_id"].iloc[0])
    named.to_csv(folder / "named.csv", index=False)
    relabel_cache(emb, folder / "named.csv", folder / "named.h5")
    of_clips = {"cv": "group", "head": "ridge", "axis": "quality"}
    train(folder / "named.h5", folder / "e", context="reference", **of_clips)
    train(emb, folder / "f", calibrate=True, **of_clips)
    half = table[["clip_id"]].assign(source=["x", "y"] * 10)
    half.to_csv(folder / "half.csv", index=False)
    relabel_cache(emb, folder / "half.csv", folder / "half.h5")
    train(folder / "half.h5", folder / "s", **of_clips)
    train(folder / "named.h5", folder / "g", screen="bt500", rater_model="additive", **of_clips)
    write_pairs([emb], folder / "pairs.csv")
    of_pairs = {"pairs": folder / "pairs.csv", "loss": "bt", "calibrate": True}
    train(emb, folder / "h", cv="group", **of_pairs, **ONE, **QUICK)
    ablate(
        [emb, other],
        folder / "c",
        cv=["2", "3"],
        clips=[0, 9],
        systems=[0, 3],
        nested=True,
        **ONE,
        **QUICK,
    )
    paired = {"pairs": folder / "pairs.csv", **ONE, **QUICK}
    ablate(emb, folder / "d", cv="3", lr=[1e30, 1e31], screen="bt500", **paired)
    predict(folder / "a" / "head.safetensors", emb, out=folder / "predicted.csv")
    scores = pd.read_csv(folder / "predicted.csv").groupby("clip_id")["prediction"].mean()
    scores.to_csv(folder / "theirs.csv")
    known = pd.read_csv(folder / "a" / "predictions.csv")
    known["trained_on"] = ["yes" if name < "clip010" else "no" for name in known["clip_id"]]
    known.to_csv(folder / "some.csv", index=False)
    scored = [
        evaluate(folder / name, emb, baseline=[folder / "theirs.csv"])
        for name in ("a/predictions.csv", "some.csv")
    ]

    def read(name: str, runs: str = "abcdefghs") -> list[object]:
        found = sorted(folder.glob(f"[{runs}]/{name}"))
        return [
            json.loads(path.read_text()) if path.suffix == ".json"
            else dict.fromkeys(pd.read_csv(path), 1)
            for path in found
        ]  # fmt: skip

    tables = [dict.fromkeys(pd.read_csv(folder / "predicted.csv"), 1), *read("predictions.csv")]
    names = ("results.csv", "summary.csv", "study.csv", "metrics.json", "best.json")
    return {
        **{name: read(name) for name in names},
        "config.json": read("config.json", "abefgh"),
        "config.json of a grid": read("config.json", "cd"),
        "predictions.csv": tables,
        "qamro-evaluate --json": [json.loads(json_text(one)) for one in scored],
    }


def paths_of(value: object, path: tuple[str, ...] = ()):
    """Yield the path of each leaf and its value; ``[]`` is any item of a list."""
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = [("[]", item) for item in value]
    if not items:
        yield (path[:-1] if path[-1] == "[]" else path), value
    for name, item in items:
        yield from paths_of(item, (*path, name))


@cache
def documented(section: str) -> tuple[tuple[str, ...], ...]:
    """Paths that the tables of a section have; a link to another stands for all of that one's."""
    title = rf"^##+ {re.escape(section)}\n(.*?)^##"
    found = re.search(title, TEXT, re.DOTALL | re.MULTILINE | re.IGNORECASE)
    rows = []
    for names, cells in re.findall(r"^\| (`[^|]*`) \|(.*)$", found[1], re.MULTILINE):
        link = re.search(LINK, cells)
        more = documented(link[1].replace("-", " ")) if link else [()]
        for name in re.findall(r"`([^`]+)`", names):
            plain = name if link else name.removesuffix("[]")
            path = tuple(plain.replace("[]", ".[]").split("."))
            rows += [(*path, *rest) for rest in more]
    return tuple(rows)


def fits(part: str, name: str) -> bool:
    """Whether a part of a documented path stands for a name."""
    found = re.fullmatch(r"<(\w+)>(\w*)", part)
    if found is None:
        return part == name
    names = NAMES.get(found[1])
    plain = name.removesuffix(found[2])
    return name.endswith(found[2]) and (names is None or plain in names)


@pytest.mark.parametrize("section", [
    "results.csv", "summary.csv", "study.csv", "predictions.csv", "metrics.json", "config.json",
    "config.json of a grid", "best.json", "qamro-evaluate --json",
])  # fmt: skip
def test_every_column_and_key_is_documented_and_no_other(written, section):
    rows = documented(section)
    assert len(set(rows)) == len(rows), "a name stands twice"
    seen, unknown = set(), []
    leaves = {
        (path, value is None or value in ({}, []))
        for record in written[section]
        for path, value in ((p, v if v is None else str(v) if v not in ({}, []) else None)
                            for p, v in paths_of(record))
    }  # fmt: skip
    assert len(leaves) > 5
    for path, nothing in leaves:
        # Nothing may stand where there are records otherwise.
        hits = [
            row for row in rows
            if (len(row) == len(path) or (nothing and len(row) > len(path)))
            and all(map(fits, row, path))
        ]  # fmt: skip
        if not hits:
            unknown.append(".".join(path))
        seen |= {row for row in hits if len(row) == len(path)}
    assert not unknown, f"docs/commands.md, {section}, has no line for these"
    assert not [".".join(row) for row in rows if row not in seen], "nothing writes these"


def test_words_of_the_tables_are_explained():
    words = ("clip", "system", "group", "level", "ceiling", "baseline", "seed", "ood", "fold")
    for word in words:
        assert re.search(rf"^\| {word}[ ,|]|`{word}`", TEXT, re.MULTILINE), word
