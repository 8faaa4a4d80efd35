"""QamroRegressor against scikit-learn's own checks, qamro-train, and repeated rows."""

import inspect
import pickle
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from synthetic_cache import write_synthetic

from qamro_cache import open_cache, predict, train
from qamro_cache.encoders import support
from qamro_cache.errors import QamroError
from qamro_cache.experiments import train as training
from qamro_cache.heads.architecture import CLOSED
from qamro_cache.heads.ridge import fit_ridge
from qamro_cache.training.recipe import RECIPE

pytest.importorskip("sklearn")

import joblib
from scipy.stats import spearmanr
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from qamro_cache.integrations import regressor
from qamro_cache.integrations.regressor import NOT_OF_VECTORS, PARAMETERS, QamroRegressor

QUICK = {"seeds": 2, "epochs": 2, "widths": (8,), "lr": 1e-2}
#: What sklearn asks that such an estimator does not do, and why.
EXPECTED_FAILED = {
    "check_sample_weight_equivalence_on_dense_data": (
        "the samples are shuffled: a batch is drawn by their places, and sums are in float32"
    ),
}


def made(clips=60, width=6, seed=0):
    """Return SYNTHETIC vectors, ratings and groups."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((clips, width))
    y = 3 + np.tanh(X[:, 0] + X[:, 1]) + 0.1 * random.standard_normal(clips)
    return X, y, np.arange(clips) // 5


@pytest.mark.parametrize("loss", ["bt", "huber + bt", "ranknet_pairs"])
def test_a_loss_of_pairs_is_refused(loss):
    X, y, _ = made()
    with pytest.raises(ValueError, match=r"learns from pairs .*, which fit does not take"):
        QamroRegressor(loss=loss, **QUICK).fit(X, y)


def test_groups_are_a_value_a_sample_of_one_kind():
    X, y, groups = made()
    one = QamroRegressor(head="ridge")
    with pytest.raises(ValueError, match=r"groups must be \[N\], a value a sample, got shape"):
        one.fit(X, y, groups=np.zeros((60, 2)))
    with pytest.raises(ValueError, match="groups must be numbers or texts, all of one kind"):
        one.fit(X, y, groups=[None] * 30 + ["a"] * 30)
    by_name = clone(one).fit(X, y, groups=[f"g{k:02d}" for k in groups])
    assert (by_name.predict(X) == one.fit(X, y, groups=groups).predict(X)).all()


def test_its_parameters_are_the_recipes_settings():
    signature = inspect.signature(QamroRegressor.__init__)
    given = [one for name, one in signature.parameters.items() if name != "self"]
    assert [one.name for one in given] == list(PARAMETERS)
    assert all(one.default is None for one in given)
    assert set(RECIPE) - set(PARAMETERS) == set(NOT_OF_VECTORS)
    assert set(PARAMETERS) - set(RECIPE) == {"scale", "seeds", "stop", "device"}
    kinds = {"float": float, "int": int, "str": str, "bool": bool}
    for one in given:
        declared = PARAMETERS[one.name]
        words = str(one.annotation)
        named = {kind for word, kind in kinds.items() if word in words}
        assert declared.kind in named, one
        assert declared.help in QamroRegressor.__doc__


def test_none_is_not_given():
    X, y, _ = made()
    at_once = ({"head": head} for head in CLOSED)
    for given in ({"head": "linear"}, *at_once, {"loss": "ranknet"}, {"loss": "mse"}):
        short = {} if given.get("head") in CLOSED else {"epochs": 2}
        fitted = QamroRegressor(seeds=1, **given, **short).fit(X, y)
        assert np.isfinite(fitted.predict(X)).all()
    # The default of another term's temperature stays its own.
    both = [QamroRegressor(seeds=1, epochs=1, loss="mse+spearman", temperature=t).fit(X, y)
            for t in (None, 0.1, 1.0)]  # fmt: skip
    first, same, other = (one.predict(X) for one in both)
    assert (first == same).all()
    assert (first != other).any()


@pytest.mark.slow
def test_scikit_learns_own_checks():
    found = check_estimator(
        QamroRegressor(seeds=1, epochs=5, widths=(8,), lr=2e-2),
        expected_failed_checks=EXPECTED_FAILED,
        on_skip=None,
    )
    assert not [one for one in found if one["status"] == "failed"]
    failed = {one["check_name"] for one in found if one["status"] == "xfail"}
    assert failed == set(EXPECTED_FAILED)
    assert sum(one["status"] == "passed" for one in found) > 40


@pytest.mark.parametrize("more", [{}, {"output": "bounded", "scale": (0, 100)}, {"head": "ridge"}])
def test_its_heads_are_those_of_qamro_train(tmp_path, more, monkeypatch):
    # How good they are takes longer than to train them.
    monkeypatch.setattr(training, "judge", lambda *_, **__: {})
    emb = write_synthetic(tmp_path / "emb.h5")
    recipe = {name: value for name, value in more.items() if name != "scale"}
    if "head" not in more:
        recipe |= {"epochs": 2, "seeds": 2, "widths": (8,), "lr": 1e-2}
    train(emb, tmp_path / "run", cv="group", axis="quality", **recipe)
    theirs = predict(tmp_path / "run", emb).set_index("clip_id")["prediction"]
    clips = open_cache(emb).arrays("embedding", "quality")
    ours = QamroRegressor(**recipe, scale=more.get("scale"))
    ours.fit(clips.X, clips.y, groups=clips.groups)
    difference = ours.predict(clips.X) - theirs[clips.clip_ids].to_numpy()
    assert np.abs(difference).max() < 1e-3  # of 100
    assert np.ptp(ours.predict(clips.X)) > 1


def test_a_weight_is_how_often_a_sample_is_taken():
    X, y, groups = made(30)
    weight = np.random.default_rng(1).integers(0, 4, len(y))
    copies = np.repeat(np.arange(len(y)), weight)
    for more in ({}, {"stop": "inner", "patience": 1}, {"head": "ridge"}):
        given = {**({} if "head" in more else QUICK), **more}
        weighed = QamroRegressor(**given).fit(X, y, sample_weight=weight)
        repeated = QamroRegressor(**given).fit(X[copies], y[copies], groups=copies)
        assert (weighed.predict(X) == repeated.predict(X)).all()
        plain = QamroRegressor(**given).fit(X, y)
        once = QamroRegressor(**given).fit(X, y, sample_weight=np.ones(len(y)))
        assert (once.predict(X) == plain.predict(X)).all()
        assert (weighed.predict(X) != plain.predict(X)).any()
        grouped = QamroRegressor(**given).fit(X, y, groups, weight)
        again = QamroRegressor(**given).fit(X[copies], y[copies], groups[copies])
        assert (grouped.predict(X) == again.predict(X)).all()
    with pytest.raises(ValueError, match=r"sample_weight\[1\] is 0.5: a weight is how often"):
        QamroRegressor().fit(X, y, sample_weight=[1, 0.5, *[1] * 28])
    with pytest.raises(ValueError, match="Negative values"):
        QamroRegressor().fit(X, y, sample_weight=[-1] * 30)
    with pytest.raises(QamroError, match="sample_weight: 30,000,000,000,000 samples of 6 numbers"):
        QamroRegressor().fit(X, y, sample_weight=np.full(30, 1e12))


def test_ridge_is_the_closed_form_with_groups():
    X, y, groups = made()
    ours = QamroRegressor(head="ridge").fit(X, y, groups)
    theirs = fit_ridge(X.astype(np.float32).astype(float), y, (6,), groups)
    assert ours.predict(X) == pytest.approx(theirs.predict(X), abs=1e-5)


def test_it_stops_by_samples_of_its_own():
    """Noise is stopped at once; what can be learned is not. Then all samples are learned from."""
    X, y, groups = made(80)
    recipe = {"seeds": 1, "widths": (8,), "lr": 2e-3}
    short = {**recipe, "epochs": 12, "patience": 4, "stop": "inner"}
    learned = QamroRegressor(**short).fit(X, y, groups)
    noisy = np.random.default_rng(3).permutation(y)
    noise = QamroRegressor(**short).fit(X, noisy, groups)
    assert noise.recipe_.epochs < 6 < 10 < learned.recipe_.epochs
    again = QamroRegressor(**recipe, epochs=learned.recipe_.epochs).fit(X, y)
    assert (again.predict(X) == learned.predict(X)).all()


def test_groups_are_kept_whole_to_stop_by(monkeypatch):
    X, y, groups = made()
    names = np.array([f"song {k}" for k in groups], object)
    seen = []

    def fit(self, recipe, seeds, folds, device):
        seen.append(folds)
        raise QamroError("seen")

    monkeypatch.setattr(regressor._Samples, "fit", fit)
    for given in (names, None):
        with pytest.raises(QamroError, match="seen"):
            QamroRegressor(stop="inner").fit(X, y, given)
    for folds in seen:
        assert 9 <= folds.validation.sum() <= 14
    whole = [set(folds.validation[0][groups == k]) for folds in seen for k in range(12)]
    assert all(len(one) == 1 for one in whole[:12])
    assert any(len(one) == 2 for one in whole[12:])
    # Copies by weight are one clip.
    with pytest.raises(QamroError, match="seen"):
        QamroRegressor(stop="inner").fit(X, y, sample_weight=np.full(60, 2))
    first, second = seen[-1].validation[0].reshape(60, 2).T
    assert (first == second).all()
    assert first.any()


def test_searches_pipelines_and_copies():
    X, y, groups = made()
    srcc = make_scorer(lambda truth, scores: spearmanr(truth, scores).statistic)
    search = GridSearchCV(
        make_pipeline(PCA(4), QamroRegressor(**QUICK)),
        {"qamroregressor__lr": np.array([1e-6, 1e-2]), "qamroregressor__batch_size": np.array([8])},
        cv=GroupKFold(3),
        scoring=srcc,
        error_score="raise",
    ).fit(X, y, groups=groups)
    assert search.best_params_["qamroregressor__lr"] == 1e-2
    scores = []
    for learned, held in GroupKFold(3).split(X, y, groups):
        pca = PCA(4).fit(X[learned])
        one = QamroRegressor(**QUICK, batch_size=8).fit(pca.transform(X[learned]), y[learned])
        scores.append(spearmanr(y[held], one.predict(pca.transform(X[held]))).statistic)
    assert search.best_score_ == pytest.approx(np.mean(scores), abs=1e-12)
    fitted = QamroRegressor(**QUICK).fit(X, y)
    assert clone(fitted).get_params() == fitted.get_params()
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()
    with pytest.raises(NotFittedError):
        clone(fitted).predict(X)


def test_groups_are_handed_on_by_metadata_routing():
    X, y, groups = made()
    seen = []

    class Seeing(QamroRegressor):
        def fit(self, X, y, groups=None, sample_weight=None):
            seen.append(groups)
            return super().fit(X, y, groups, sample_weight)

    with config_context(enable_metadata_routing=True):
        model = Seeing(head="ridge").set_fit_request(groups=True, sample_weight=False)
        GridSearchCV(model, {"activation": [None]}, cv=GroupKFold(3)).fit(X, y, groups=groups)
    assert [len(one) for one in seen] == [40, 40, 40, 60]


@pytest.mark.slow
def test_processes_of_joblib(tmp_path):
    X, y, groups = made()
    found = [
        GridSearchCV(QamroRegressor(**QUICK), {"alpha": [0.1, 1.0]}, cv=GroupKFold(2), n_jobs=jobs)
        .fit(X, y, groups=groups)
        for jobs in (1, 2)
    ]  # fmt: skip
    assert (
        found[0].cv_results_["mean_test_score"] == found[1].cv_results_["mean_test_score"]
    ).all()
    joblib.dump(found[1], tmp_path / "search.joblib")
    again = joblib.load(tmp_path / "search.joblib")
    assert (again.predict(X) == found[0].predict(X)).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"head": "mpl"}, "head must be one of mlp, linear, .*, got 'mpl'; did you mean 'mlp'"),
        ({"alpha": -1}, "alpha must be at least 0, got -1"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"stop": "never"}, "stop must be one of inner, fixed, got 'never'"),
        ({"head": "ridge", "lr": 0.1}, "a ridge head is solved in closed form and takes no lr"),
        ({"head": "audiobox"}, r"a head that mixes layers takes \[L, D\], got \[6\]"),
        ({"loss": "qamro(alpha=1)", "alpha": 2}, "alpha"),
        ({"scale": (5, 1)}, r"scale must be a low and a high end, got \(5, 1\)"),
        ({"scale": (0, 1)}, r"y\[0\] is .*, which is not on the scale 0 to 1"),
    ],
)
def test_what_cannot_be_is_a_value_error_of_one_line(given, words):
    X, y, _ = made(10)
    with pytest.raises(ValueError, match=words) as raised:
        QamroRegressor(**given).fit(X, y)
    assert "\n" not in str(raised.value)


def test_heads_that_diverge_are_refused_and_the_ends_hold():
    X, y, _ = made()
    with pytest.raises(QamroError, match="2 of 2 heads to be saved diverged; lower --lr"):
        QamroRegressor(lr=1e30, seeds=2, epochs=2).fit(X, y)
    steep = QamroRegressor(**{**QUICK, "lr": 0.1}, output="bounded", scale=(1, 5)).fit(X, y)
    far = steep.predict(X * 100)
    assert far.min() >= 1
    assert far.max() <= 5


def test_the_global_state_is_as_before():
    X, y, _ = made()
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    QamroRegressor(**QUICK).fit(X, y)
    assert (torch.get_rng_state() == before).all()
    assert torch.get_num_threads() == threads


def test_without_scikit_learn_the_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "qamro_cache.integrations.regressor")
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    with pytest.raises(QamroError, match="package sklearn is not installed; run: pip install"):
        import_module("qamro_cache.integrations.regressor")
