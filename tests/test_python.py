"""What a user of the library calls: paths or open objects, clip vectors, print and help."""

import os
import pydoc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_cache import write_synthetic

import qamro_cache
from qamro_cache import ablate, evaluate, extract, open_cache, predict, train
from qamro_cache.cache.edit import export_cache, relabel_cache
from qamro_cache.cache.info import cache_info
from qamro_cache.cache.merge import merge_caches
from qamro_cache.cache.reader import Cache
from qamro_cache.cache.verify import verify_cache
from qamro_cache.datasets.demo import load_demo
from qamro_cache.datasets.labels import load_rated, relabel
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.grid import Grid, read_grid
from qamro_cache.extraction.deep import verify_deep
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.network import prepare_rows
from qamro_cache.scoring.table import write_predictions

#: These heads are judged by what they were trained on.
SEEN = {"include_trained": True}
RIDGE = {"head": "ridge", "cv": "group", "axis": "quality"}


class Named:
    """A path of neither library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


#: Every way to name a file.
WAYS = (str, Path, Named)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cache, a head, predictions, labels and a grid."""
    folder = tmp_path_factory.mktemp("made")
    write_synthetic(folder / "emb.h5")
    train(folder / "emb.h5", folder / "run", **RIDGE)
    table = predict(folder / "run" / "head.safetensors", folder / "emb.h5")
    write_predictions(table, folder / "scores.csv")
    clips = open_cache(folder / "emb.h5").clips["clip_id"]
    pd.DataFrame({"clip_id": clips, "path": "x.wav", "quality": range(len(clips))}).to_csv(
        folder / "labels.csv", index=False
    )
    (folder / "grid.toml").write_text('[grid]\nhead = ["ridge"]\n')
    return folder


def test_an_empty_name_is_told_and_is_never_the_folder_one_is_in(made, tmp_path, monkeypatch):
    monkeypatch.chdir(made / "run")
    calls = (
        lambda: open_cache(""),
        lambda: load_head(""),
        lambda: predict("", made / "emb.h5"),
        lambda: predict("head.safetensors", ""),
        lambda: predict("head.safetensors", audio=""),
        lambda: predict("head.safetensors", manifest=""),
        lambda: evaluate("", made / "emb.h5"),
        lambda: evaluate("predictions.csv", ""),
        lambda: train(made / "emb.h5", ""),
        lambda: train(made / "emb.h5", tmp_path / "run", labels=""),
        lambda: extract(None, tmp_path / "new.h5", "mel", manifest=""),
    )
    for call in calls:
        with pytest.raises(OptionError, match="is empty; name a"):
            call()


def test_a_cache_is_a_path_or_open(made, tmp_path):
    opened = open_cache(made / "emb.h5")
    assert open_cache(opened) is opened
    wanted = cache_info(opened)
    for k, cache in enumerate([*(way(made / "emb.h5") for way in WAYS), opened]):
        assert cache_info(cache) == wanted
        assert verify_cache(cache)["clips"] == 40
        assert relabel_cache(cache, made / "labels.csv", tmp_path / f"{k}.h5") == 40
        assert merge_caches([cache], tmp_path / f"m{k}.h5") == 40
        assert export_cache(cache, tmp_path / f"e{k}")
        record = train(cache, tmp_path / f"run{k}", **RIDGE)
        assert record["axes"]["quality"]["models"]["ridge head"]["clips"] == 39
        best = ablate(cache, tmp_path / f"grid{k}", **RIDGE, resamples=0)
        assert best["axes"]["quality"]["cell"] == {}
        table = predict(made / "run" / "head.safetensors", cache)
        assert evaluate(table, cache, **SEEN, resamples=0)["axes"]["quality"]["clips"] == 39
        with pytest.raises(QamroError, match="no encoder 'fake'"):
            verify_deep(cache)
    # Several of one encoder are one.
    write_synthetic(tmp_path / "more.h5", prefix="other")
    several = [made / "emb.h5", str(tmp_path / "more.h5")]
    assert len(open_cache(several).clips) == 80
    with pytest.raises(OptionError, match="a cache of one file, got 2"):
        verify_cache(several)


def test_outputs_and_tables_are_named_in_every_way(made, tmp_path):
    cache = open_cache(made / "emb.h5")
    expected = predict(load_head(made / "run" / "head.safetensors"), cache)
    scored = evaluate(expected, cache, **SEEN, resamples=20)
    for way in WAYS:
        name = way.__name__
        head = load_head(way(made / "run" / "head.safetensors"))
        assert load_head(head) is head
        save_head(way(tmp_path / f"{name}.safetensors"), head)
        for given in (head, way(tmp_path / f"{name}.safetensors")):
            pd.testing.assert_frame_equal(predict(given, cache), expected)
        out = way(tmp_path / f"{name}.csv")
        predict(head, cache, out=out)
        # The table itself, its file, and labels of any kind are one.
        assert evaluate(out, cache, **SEEN, resamples=20) == scored
        assert evaluate(out, way(made / "emb.h5"), **SEEN, resamples=20) == scored
        assert evaluate(way(made / "scores.csv"), cache, **SEEN, resamples=20) == scored
        assert evaluate(out, way(made / "labels.csv"), **SEEN, resamples=0)["axes"]["quality"]
        train(cache, way(tmp_path / f"run-{name}"), labels=way(made / "labels.csv"), **RIDGE)
        assert (tmp_path / f"run-{name}" / "head.safetensors").exists()
        for grid in (way(made / "grid.toml"), Grid({"head": ["ridge"]})):
            folder = way(tmp_path / f"grid-{name}")
            ablate(cache, folder, grid=grid, cv="group", axis="quality", resamples=0)
        assert read_grid(way(made / "grid.toml")).values == {"head": ["ridge"]}
        merge_caches([cache], way(tmp_path / f"merged-{name}.h5"))
        export_cache(cache, way(tmp_path / f"exported-{name}"))
        relabel_cache(cache, way(made / "labels.csv"), way(tmp_path / f"labeled-{name}.h5"))


def test_data_sets_are_named_in_every_way(made, tmp_path):
    clips = open_cache(made / "emb.h5").clips
    demo = load_demo(tmp_path / "demo")
    for way in WAYS:
        labels = way(made / "labels.csv")
        assert len(load_manifest(labels, way(made)).clips) == 40
        assert len(load_rated(labels)[0]) == 40
        assert len(relabel(labels, clips, open_cache(made / "emb.h5").labels)[0]) == 40
        assert len(load_dataset("demo", way(tmp_path / "demo")).clips) == len(demo.clips)
        path = tmp_path / f"{way.__name__}.csv"
        demo.clips[["clip_id", "path"]].iloc[:1].to_csv(path, index=False)
        out = way(tmp_path / f"{way.__name__}.h5")
        assert extract(manifest=way(path), out=out, encoder="mel", device="cpu").ok == 1
    opened = load_manifest(path)
    assert extract(opened, tmp_path / "opened.h5", "mel", device="cpu").ok == 1


def test_what_names_nothing_is_one_line(made, tmp_path):
    cache = open_cache(made / "emb.h5")
    for call in (
        lambda: open_cache(5),
        lambda: open_cache([5]),
        lambda: train(5, tmp_path / "run"),
        lambda: train(cache, 5),
        lambda: ablate(5, tmp_path / "grid"),
        lambda: ablate(cache, 5),
        lambda: ablate(cache, tmp_path / "grid", grid=5),
        lambda: predict(5, cache),
        lambda: evaluate(5, cache),
        lambda: evaluate(made / "scores.csv", 5),
        lambda: load_head(5),
        lambda: load_manifest(5),
        lambda: load_dataset(5),
        lambda: extract("demo", 5, "mel"),
    ):
        with pytest.raises(OptionError, match="is named by text or a path, got 5"):
            call()


def test_a_table_of_predictions_is_checked_as_its_file_is(made):
    cache = open_cache(made / "emb.h5")
    table = predict(made / "run" / "head.safetensors", cache)
    with pytest.raises(QamroError, match="the table of predictions, row 1: there is no column"):
        evaluate(table.drop(columns="axis"), cache)
    with pytest.raises(QamroError, match="the table of predictions, row 42: clip 'clip000' has"):
        evaluate(pd.concat([table, table.iloc[:1]]), cache)
    # Any index, and columns that a file would not have.
    short = table[["clip_id", "axis", "prediction"]].sample(frac=1, random_state=0)
    scored = evaluate(short, cache, **SEEN, resamples=0)["axes"]["quality"]
    assert scored["clips"] == 39


def naive_vectors(cache, name):
    """Weighted means of the windows by a double loop."""
    windows, offsets, weights = (part.numpy().astype(np.float64) for part in cache.read(name))
    rows = {}
    for k, clip_id in enumerate(cache.clips["clip_id"]):
        total, weight = 0.0, 0.0
        for window in range(int(offsets[k]), int(offsets[k + 1])):
            total = total + weights[window] * windows[window]
            weight += weights[window]
        if weight:
            rows[clip_id] = (total / weight).ravel()
    return pd.DataFrame(rows).T


@pytest.mark.parametrize("feature", ["embedding", "layers"])
def test_clip_vectors(made, feature):
    cache = open_cache(made / "emb.h5")
    table, expected = cache.table(feature), naive_vectors(cache, feature)
    vectors = table.filter(regex=f"^{feature}_")
    assert list(table.index) == list(expected.index), "the clip that failed has no row"
    np.testing.assert_allclose(vectors, expected, rtol=1e-6, atol=1e-6)
    last = "layers_2_5" if feature == "layers" else "embedding_5"
    assert table.columns[-1] == last
    # As heads pool.
    windows, offsets, weights = cache.read(feature)
    rows = prepare_rows(Architecture(), windows, offsets, weights).values
    ok = (cache.clips["status"] == "ok").to_numpy()
    np.testing.assert_allclose(vectors, rows[torch.from_numpy(ok.copy())], rtol=1e-5, atol=1e-6)
    clips = cache.clips[ok].set_index("clip_id")
    for name in ("system", "group", "split", "prompt"):
        assert (table[name] == clips[name]).all()
    np.testing.assert_array_equal(table[["quality", "match"]], cache.labels.mean[ok])


def test_arrays_are_the_rated_clips(made, tmp_path):
    labels = pd.read_csv(made / "labels.csv").astype({"quality": float})
    labels.loc[[0, 5], "quality"] = np.nan
    labels.to_csv(tmp_path / "some.csv", index=False)
    relabel_cache(made / "emb.h5", tmp_path / "some.csv", tmp_path / "some.h5")
    cache = open_cache(tmp_path / "some.h5")
    data = cache.arrays()  # one axis, the first feature
    X, y, groups, systems, clip_ids = data
    table = cache.table()
    rated = table[table["quality"].notna()]
    assert (len(y), list(clip_ids)) == (37, list(rated.index))
    np.testing.assert_array_equal(X, rated.filter(regex="^embedding_"))
    assert list(data.y) == list(rated["quality"])
    assert list(groups) == list(rated["group"])
    assert list(systems) == list(rated["system"])
    two = open_cache(made / "emb.h5")
    assert len(two.arrays("layers", "match").y) == 39
    with pytest.raises(QamroError, match="name the axis of y; there are: quality, match"):
        two.arrays("layers")
    with pytest.raises(QamroError, match="no axis 'qualty'"):
        two.arrays(axis="qualty")
    with pytest.raises(QamroError, match="no feature 'nothing'"):
        two.table("nothing")


def test_several_files_have_one_table(made, tmp_path):
    other = write_synthetic(tmp_path / "more.h5", prefix="other", seed=1)
    both = open_cache([made / "emb.h5", other])
    alone = pd.concat([open_cache(made / "emb.h5").table(), open_cache(other).table()])
    pd.testing.assert_frame_equal(both.table(), alone)


def test_a_table_in_a_files_place_is_one_line(made):
    table = pd.read_csv(made / "scores.csv")
    for call in (
        lambda: evaluate(made / "scores.csv", table),
        lambda: train(table, made / "none"),
        lambda: open_cache(b"emb.h5"),
        lambda: predict(made / "run", clips=table),
        lambda: extract(table, made / "none.h5", "mel"),
    ):
        with pytest.raises(OptionError, match=r"path|load_manifest") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_printed_cache_is_about_ten_lines(made):
    cache = open_cache(made / "emb.h5")
    lines = str(cache).splitlines()
    assert 8 <= len(lines) <= 13
    for words in (
        "tiny (synthetic)", "fake, identity", "embedding [6], layers [3, 6], text [6] (prompts)",
        "40 (39 ok, 1 unreadable)", "axis quality  0 to 100, 40 clips rated: mean 4",
    ):  # fmt: skip
        assert words in str(cache)
    mean = f"mean {np.mean(cache.labels.mean[:, 1]):.3g}"
    assert mean in lines[-1]
    assert "\n" not in repr(cache)
    assert isinstance(cache, Cache)


def test_help_begins_with_what_a_user_calls():
    text = pydoc.render_doc(qamro_cache, renderer=pydoc.plaintext)
    head = text[: text.index("PACKAGE CONTENTS")].splitlines()
    assert len(head) <= 30
    for name in qamro_cache.__all__:
        if not name.startswith("__"):
            assert any(f"{name}(" in line or f"{name}." in line for line in head), name
    assert os.linesep.join(head).count("cache.table(") == 1
