"""kNN and SVR as heads: what scikit-learn finds, kept as tensors and served from a head file."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVR
from synthetic_cache import write_synthetic

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.train import train
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.network import forward
from qamro_cache.heads.point_scores import point_scores
from qamro_cache.heads.points import fit_neighbors, fit_vectors
from qamro_cache.scoring.predict import predict


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("data") / "emb.h5")


def data(clips=60):
    rng = np.random.default_rng(3)
    features = rng.standard_normal((clips, 5)) * [1, 2, 3, 4, 5]
    labels = 40 + 10 * features[:, 0] + rng.standard_normal(clips)
    return features, labels, rng.integers(0, 8, clips)


def test_neighbors_are_those_of_scikit_learn():
    features, labels, groups = data()
    found = fit_neighbors(features, labels, (5,), groups)
    scaled = (features - features.mean(0)) / features.std(0)
    new = data(90)[0][60:]
    theirs = KNeighborsRegressor(found.k).fit(scaled, labels)
    wanted = theirs.predict((new - features.mean(0)) / features.std(0))
    np.testing.assert_allclose(found.predict(new), wanted)
    assert 1 < found.k < 50, "one that is chosen"


def test_vectors_are_those_of_scikit_learn():
    features, labels, groups = data()
    found = fit_vectors(features, labels, (5,), groups)
    scaled = (features - features.mean(0)) / features.std(0) / np.sqrt(5)
    standard = (labels - labels.mean()) / labels.std()
    new = data(90)[0][60:]
    theirs = SVR(C=found.model.C).fit(scaled, standard)
    rows = (new - features.mean(0)) / features.std(0) / np.sqrt(5)
    wanted = labels.mean() + labels.std() * theirs.predict(rows)
    np.testing.assert_allclose(found.predict(new), wanted)


@pytest.mark.parametrize("kind", ["knn", "svr"])
def test_tensors_score_as_what_they_were_made_of(kind):
    features, labels, groups = data()
    fit = {"knn": fit_neighbors, "svr": fit_vectors}[kind]
    found = fit(features, labels, (5,), groups)
    std = float(labels.std())
    params = {n: torch.from_numpy(np.asarray(v))[None] for n, v in found.params(std).items()}
    new = torch.from_numpy(data(90)[0][60:])
    mean, scale = (torch.from_numpy(one) for one in (found.mean, found.std))
    out = forward(
        Architecture(kind=kind, widths=()), params, new, torch.arange(31), torch.ones(30),
        mean=mean, std=scale,
    )  # fmt: skip
    scores = found.intercept + std * out[0].numpy()
    np.testing.assert_allclose(scores, found.predict(new.numpy()), rtol=1e-9)


def test_of_copies_the_first_count_before_and_after_a_head_is_saved():
    rng = np.random.default_rng(1)
    base = (rng.standard_normal((20, 8)) + 5).astype(np.float32)
    features, labels = np.concatenate([base, base, base]).astype(float), rng.standard_normal(60)
    found = fit_neighbors(features, labels, (8,))._replace(k=5)
    new = (rng.standard_normal((50, 8)) + 5).astype(np.float32).astype(float)
    rows = (new - found.mean) / found.std
    wanted = []
    for row in rows:  # three copies of the nearest, and two of the next
        apart = [((row - point) ** 2).sum() for point in found.points[:20]]
        first, second = np.argsort(apart)[:2]
        wanted.append((labels[first::20].sum() + labels[second::20][:2].sum()) / 5)
    np.testing.assert_allclose(found.predict(new), wanted)
    params = found.params(float(labels.std()))
    params = {n: torch.tensor(np.asarray(v, np.float32))[None] for n, v in params.items()}
    scores = point_scores("knn", params, torch.tensor(rows, dtype=torch.float32))[0].numpy()
    np.testing.assert_allclose(found.intercept + labels.std() * scores, wanted, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("knn", "kNN"), ("svr", "SVR")])
def test_a_head_is_trained_saved_and_served(cache, tmp_path, kind, name):
    given = {"cv": "group", "axis": "quality", "baselines": "all"}
    record = train(cache, tmp_path / "run", head=kind, save_folds=True, **given)
    models = record["axes"]["quality"]["models"]
    # The baseline is the same function, and does not stand beside itself.
    assert next(iter(models)) == f"{name} head"
    assert name not in models
    other = train(cache, tmp_path / "other", head="ridge", **given)["axes"]["quality"]["models"]
    mine, theirs = (
        one["metrics"]["clip_mse"]["value"] for one in (models[f"{name} head"], other[name])
    )
    assert mine == pytest.approx(theirs, rel=1e-5)
    table = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("clip_id")
    for k in (0, 5):
        path = tmp_path / "run" / "folds" / f"{k}.safetensors"
        held = table[table["fold"] == load_head(path).training["held_out"]]
        again = predict(path, cache).set_index("clip_id")["prediction"]
        np.testing.assert_allclose(again[held.index], held["prediction"], rtol=1e-5)
    head = load_head(tmp_path / "run")
    assert head.axes[0].params["points"].shape[:1] == (1,)
    assert set(head.training["recipe"]) == {"head", "pooling", "inputs"}


def test_what_cannot_be_is_one_line(cache, tmp_path):
    with pytest.raises(OptionError, match="a knn head is fitted at once and takes no lr"):
        train(cache, tmp_path, head="knn", lr=0.1)
    with pytest.raises(OptionError, match="a svr head is fitted at once and takes no seeds"):
        train(cache, tmp_path, head="svr", seeds=2)
    with pytest.raises(OptionError, match="a knn head takes pooling='mean' or 'max'"):
        train(cache, tmp_path, head="knn", pooling="attention")


def test_a_head_that_averages_more_clips_than_it_keeps_is_damaged(cache, tmp_path):
    train(cache, tmp_path, head="knn", cv="group", axis="quality")
    head = load_head(tmp_path)
    params = dict(head.axes[0].params)
    params["shares"] = torch.full((1, 1000), 0.001)
    forged = replace(head, axes=(replace(head.axes[0], params=params),))
    with pytest.raises(QamroError, match="the mean of 1000 of 39 clips"):
        save_head(tmp_path / "forged.safetensors", forged)
    assert not (tmp_path / "forged.safetensors").exists()
