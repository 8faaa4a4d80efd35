"""Which clips are kept, by plain loops; and what predictions come to."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from qamro_cache_cli.filter import main

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.files import write_table
from qamro_cache.scoring.keep import keep, parse_minimum
from qamro_cache.scoring.summary import summarize
from qamro_cache.scoring.table import COLUMNS, json_lines, write_predictions


def predictions(clips=60, seed=0):
    """A table as `predict` returns it: two axes, some clips failed, some out of distribution."""
    rng = np.random.default_rng(seed)
    rows = []
    for axis in ("quality", "match"):
        for k in range(clips):
            failed = k % 13 == 5
            row = dict.fromkeys(COLUMNS, "")
            row |= {
                "clip_id": f"a b/{k}.wav", "axis": axis, "seed": "mean", "scale": "1..5",
                "prediction": np.nan if failed else round(float(rng.uniform(1, 5)), 1),
                "target": np.nan, "std": 0.1, "ood": bool(rng.random() < 0.2),
                "reason": "no samples" if failed else "",
            }  # fmt: skip
            rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_loop(table, minimum, ood):
    found = []
    for clip_id in dict.fromkeys(table["clip_id"]):
        mine = table[
            (table["clip_id"] == clip_id) & table["axis"].isin(minimum or ["quality", "match"])
        ]
        good = all(
            row["prediction"] >= minimum.get(row["axis"], -np.inf) for _, row in mine.iterrows()
        )
        good &= not mine["prediction"].isna().any()
        if good and (ood or not mine["ood"].any()):
            found.append(clip_id)
    return tuple(found)


@pytest.mark.parametrize("ood", [True, False])
@pytest.mark.parametrize("minimum", [{}, {"quality": 3.5}, {"quality": 2, "match": 2.1},
                                     {"match": 9.0}])  # fmt: skip
def test_what_is_kept_and_the_curve_are_those_of_a_loop(tmp_path, minimum, ood):
    table = predictions()
    found = keep(table, minimum, ood=ood, out=tmp_path / "kept")
    assert found.clip_ids == by_loop(table, minimum, ood)
    assert (tmp_path / "kept" / "kept.txt").read_text().splitlines() == list(found.clip_ids)
    written = pd.read_csv(tmp_path / "kept" / "retention.csv")
    assert set(written["axis"]) == set(minimum or ["quality", "match"])
    for _, row in written.iloc[::50].iterrows():
        kept = by_loop(table, {**minimum, row["axis"]: row["min"]}, ood) if minimum else None
        if kept is None:  # a threshold on one axis alone, both must be known
            known = by_loop(table, {}, ood)
            scores = table[table["axis"] == row["axis"]].set_index("clip_id")["prediction"]
            kept = [name for name in known if scores[name] >= row["min"]]
        assert row["kept"] == len(kept)
        assert row["share"] == pytest.approx(len(kept) / 60)
        of_axis = table[(table["axis"] == row["axis"]) & table["clip_id"].isin(kept)]
        assert row["mean"] == pytest.approx(of_axis["prediction"].mean(), nan_ok=True)
    for axis, least in minimum.items():
        asked = written[(written["axis"] == axis) & (written["min"] == least)]
        assert asked["kept"].tolist() == [len(found.clip_ids)]


def test_a_filter_that_cannot_be_is_one_line(tmp_path):
    table = predictions()
    with pytest.raises(OptionError, match=r"no prediction is of the axis 'qualty'; .*did you mean"):
        keep(table, {"qualty": 3.0})
    for words in ("quality", "quality:", ":3", "quality:three", "quality:nan"):
        with pytest.raises(OptionError, match="is not AXIS:NUMBER"):
            parse_minimum([words])
    with pytest.raises(OptionError, match="twice"):
        parse_minimum(["a:1", "a:2"])
    assert parse_minimum(["a:b:1.5"]) == {"a:b": 1.5}
    with pytest.raises(QamroError, match=r"is a folder without predictions.csv; name a run"):
        keep(tmp_path, {"quality": 3})
    with pytest.raises(QamroError, match="no column says what is out of distribution"):
        keep(table.drop(columns="ood"), {"quality": 3}, ood=False)
    with pytest.raises(QamroError, match=r"ood of clip .* is '0', neither True nor False"):
        keep(table.assign(ood=table["ood"].astype(int)), {"quality": 3}, ood=False)
    shouted = table.assign(ood=table["ood"].map(str).str.upper())
    found, plain = (keep(one, {"quality": 3}, ood=False) for one in (shouted, table))
    assert (found.clip_ids, found.ood) == (plain.clip_ids, plain.ood)
    assert plain.ood > 0
    with pytest.raises(QamroError, match="does not fit in a line"):
        keep(table.replace({"a b/0.wav": "a\nb"}), {"quality": 1}, out=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_of_a_runs_folder_the_mean_of_the_seeds_counts(tmp_path):
    """Names that are not UTF-8, which pandas takes for one, among them."""
    table = predictions().drop(columns="ood")
    for number in (3, 4):
        table = table.replace({f"a b/{number}.wav": os.fsdecode(b"%d\xff.wav" % number)})
    rows = []
    for seed in range(3):
        moved = table["prediction"] + np.random.default_rng(seed).normal(size=len(table))
        rows.append(table.assign(seed=str(seed), prediction=moved))
    rows[1].loc[2, "prediction"] = np.nan  # on quality
    rows[2] = rows[2].drop(60)  # on match
    write_table(tmp_path / "predictions.csv", pd.concat(rows))
    found: dict[str, list[float]] = {}
    for one in rows:
        for row in one.itertuples():
            found.setdefault(row.clip_id, []).append(row.prediction)
    # A seed's two axes after another; a clip that one does not predict has a NaN or lacks one.
    expected = [
        clip_id
        for clip_id, values in found.items()
        if len(values) == 6 and sum(values[::2]) / 3 >= 3 and sum(values[1::2]) / 3 >= 3
    ]
    kept = keep(tmp_path, {"quality": 3, "match": 3})
    assert kept.clip_ids == tuple(expected)
    assert (kept.clips, kept.failed) == (60, len(range(5, 60, 13)) + 2)


def test_what_nobody_calls_near_does_not_pass_max_ood(tmp_path, caplog):
    table = predictions()
    table["ood"] = table["ood"].astype(str)
    near = keep(table, {"quality": 1.0}, ood=False).clip_ids
    assert "ood is empty" not in caplog.text
    mine = (table["clip_id"] == near[3]) & (table["axis"] == "quality")
    table.loc[mine | (table["reason"] != ""), "ood"] = ""  # those failed and are no clips to keep
    assert keep(table, {"quality": 1.0}).clip_ids.count(near[3]) == 1
    assert keep(table, {"quality": 1.0}, ood=False).clip_ids == near[:3] + near[4:]
    assert "beside 1 predictions ood is empty" in caplog.text


@pytest.mark.parametrize(("kept", "retention"), [
    ("mine\n", None), (None, "axis,min\nquality,3\n"),
    ("mine\n", "axis,min,kept,share,mean\nquality,3,7,0.5,4\n"),
])  # fmt: skip
def test_a_filter_replaces_its_own_files_alone(tmp_path, kept, retention):
    table, folder = predictions(), tmp_path / "kept"
    keep(table, {"quality": 3.0}, out=folder)
    keep(table, {"quality": 9.0}, out=folder)
    assert (folder / "kept.txt").read_bytes() == b""
    keep(table, {}, out=folder)
    for name, text in (("kept.txt", kept), ("retention.csv", retention)):
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    with pytest.raises(QamroError, match=r"is there already, is no .*, and is kept"):
        keep(table, {"quality": 3.0}, out=folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before


def test_the_command_keeps_what_predict_wrote(tmp_path):
    table = predictions()
    write_predictions(table, tmp_path / "scores.csv")
    words = ["--predictions", tmp_path / "scores.csv", "--out", tmp_path / "kept"]
    words = [str(word) for word in words]
    done = CliRunner().invoke(main, [*words, "--min", "quality:3.5", "--max-ood"])
    assert done.exit_code == 0, done.output
    expected = by_loop(table, {"quality": 3.5}, False)
    assert (tmp_path / "kept" / "kept.txt").read_text().splitlines() == list(expected)
    assert f"{len(expected)} of 60 clips kept" in " ".join(done.stdout.split())
    write_predictions(table, tmp_path / "scores.jsonl")
    assert keep(tmp_path / "scores.jsonl", {"quality": 3.5}, ood=False).clip_ids == tuple(expected)
    with pytest.raises(QamroError, match=r"none.jsonl cannot be read: No such file"):
        keep(tmp_path / "none.jsonl", {"quality": 3.5})
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    with pytest.raises(QamroError, match=r"bad.jsonl, row 1: is no object"):
        keep(tmp_path / "bad.jsonl", {"quality": 3.5})
    nothing = CliRunner().invoke(main, words)
    assert (nothing.exit_code, "say what to keep" in nothing.stderr) == (2, True)


def test_a_summary_has_numpys_percentiles():
    table = predictions()
    for axis, found in summarize(table).items():
        known = table[(table["axis"] == axis) & table["prediction"].notna()]["prediction"]
        assert (found["count"], found["failed"]) == (len(known), 60 - len(known))
        assert found["mean"] == pytest.approx(np.mean(known))
        assert [found["p5"], found["p95"]] == pytest.approx(list(np.percentile(known, [5, 95])))
    nothing = summarize(table.assign(prediction=np.nan))["quality"]
    assert (nothing["count"], nothing["failed"]) == (0, 60)
    assert np.isnan(nothing["mean"])


def test_json_lines_keep_every_digit_and_replace_their_own_alone(tmp_path):
    table = predictions()
    table["prediction"] += np.random.default_rng(1).uniform(0, 1e-9, len(table))
    path = tmp_path / "scores.jsonl"
    write_predictions(table, path)
    write_predictions(table, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(row) for row in rows] == [list(COLUMNS)] * len(table)
    back = np.array([np.nan if row["prediction"] is None else row["prediction"] for row in rows])
    np.testing.assert_array_equal(back, table["prediction"])
    assert rows == [json.loads(line) for line in json_lines(table)]
    assert [row["ood"] for row in rows] == table["ood"].tolist()
    for theirs in ('{"clip_id": "a"}\n', "[1]\n", "mine\n"):
        path.write_text(theirs)
        with pytest.raises(QamroError, match="choose another name"):
            write_predictions(table, path)
