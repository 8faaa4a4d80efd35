"""Left-out figures against scipy on what is left, and what intervals must be."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from reference_metrics import reference as of_sample
from reference_metrics import within_groups
from torch.utils._python_dispatch import TorchDispatchMode

from qamro_cache.evaluation.choice import evidence
from qamro_cache.evaluation.figures import MAIN_FIGURES
from qamro_cache.evaluation.intervals import Figure, figure_of, interval, intervals
from qamro_cache.evaluation.left_out import left_out, system_pairs
from qamro_cache.evaluation.metrics import METRICS, lcc, srcc
from qamro_cache.evaluation.ways import Sample, make_sample, make_ways, with_systems

FIGURES = [figure_of(name) for name in MAIN_FIGURES]


def listening_test(systems=7, groups=5, seed=0, holes=0.2, models=2):
    """A simulated test with ties, with clips missing, some without a system or a group."""
    generator = np.random.default_rng(seed)
    system = np.repeat(np.arange(systems), groups)
    group = np.tile(np.arange(groups), systems)
    quality = generator.normal(size=systems)[system] + generator.normal(size=groups)[group]
    target = np.round(quality + generator.normal(0, 0.3, len(system)), 1)
    pred = np.round(quality + generator.normal(0, 0.7, (models, len(system))), 1)
    kept = generator.random(len(system)) >= holes
    return pred[:, kept], target[kept], system[kept], group[kept]


def reference(level, metric, pred, target, system, group):
    """A figure of the clips given, by scipy, a loop a group or system; NaN where undefined."""
    if level == "clip":
        return of_sample(metric, pred, target)
    if level == "group":
        return within_groups(metric, pred, target, group)
    names = [s for s in np.unique(system) if s >= 0]
    means = [np.array([v[system == s].mean() for s in names]) for v in (pred, target)]
    return of_sample(metric, *np.round(means, 12))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
@pytest.mark.parametrize("known", ["both", "systems", "groups", "neither", "some"])
def test_left_out_figures_are_those_of_the_clips_that_are_left(figure, known):
    pred, target, system, group = listening_test()
    if figure.level == "system" and known in ("groups", "neither"):
        pytest.skip("no such figure")
    if figure.level == "group" and known in ("systems", "neither"):
        pytest.skip("no such figure")
    if known in ("groups", "neither"):
        system = np.full_like(system, -1)
    if known in ("systems", "neither"):
        group = np.full_like(group, -1)
    if known == "some":
        system[[3, 4]], group[[4, 9, 11]] = -1, -1
    sample = make_sample(target, system, ("song", group))
    found = left_out(figure.level, figure.function, pred, sample)
    if figure.level == "system":
        pred, sample = with_systems(pred, sample)
    target, system, group = sample.target, sample.system, sample.group
    clusters = sample.ways.clusters()
    assert len(found.parts) == len(clusters) == (3 if known in ("both", "some") else 1)
    for m, row in enumerate(pred):
        whole = reference(figure.level, figure.metric, row, target, system, group)
        assert found.value[m] == pytest.approx(whole, abs=1e-12)
        for part, label in zip(found.parts, clusters, strict=True):
            for c in range(label.max() + 1):
                kept = label != c
                of_kept = (x[kept] for x in (row, target, system, group))
                want = reference(figure.level, figure.metric, *of_kept)
                assert part[m, c] == pytest.approx(want, abs=1e-10, nan_ok=True)


def test_a_diagonal_block_holds_at_most_one_clip_of_a_system_and_of_a_group():
    _, target, system, group = listening_test(holes=0)
    *_, block = make_sample(target, system, ("song", group)).ways.clusters()
    for c in range(7):
        inside = block == c
        assert inside.any()
        assert max(np.bincount(system[inside]).max(), np.bincount(group[inside]).max()) == 1


def test_published_system_scores_stand_for_the_means():
    pred, target, system, group = listening_test()
    truth = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan])
    sample = make_sample(target, system, ("song", group), truth)
    found = left_out("system", lcc, pred, sample)
    means = np.array([pred[0][system == s].mean() for s in range(7)])
    truth[6] = target[system == 6].mean()
    assert found.value[0] == pytest.approx(scipy.stats.pearsonr(means, truth).statistic)


def test_systems_without_a_pair_of_them():
    pred, target, system, group = listening_test()
    found = system_pairs(srcc, pred, make_sample(target, system, ("song", group)))
    k = 0
    for i in range(7):
        for j in range(i + 1, 7):
            kept = (system != i) & (system != j)
            parts = (x[kept] for x in (pred[0], target, system, group))
            assert found[0, k] == pytest.approx(reference("system", "srcc", *parts))
            k += 1
    assert found.shape == (2, k)


def test_the_population_in_words():
    _, target, system, group = listening_test(holes=0)
    n = len(target)
    none, two = np.full(n, -1), system % 2

    def words(of_systems, of_groups):
        return make_ways(n, ("system", of_systems), ("song", of_groups)).population

    assert words(system, group) == "over systems and songs"
    assert words(system, none) == "over systems"
    assert words(none, group) == "over songs"
    assert words(none, none) == "over clips"
    assert words(two, group) == "these 2 systems, over songs"
    assert words(system, two) == "these 2 songs, over systems"
    assert words(two * 0, none) == "this system, over clips"
    assert words(two, two) == "these 2 systems and 2 songs, over clips"
    some = group.copy()
    some[:3] = -1
    assert words(system, some) == (
        "over systems and songs (3 clips without a song: each stands for one)"
    )


@pytest.mark.parametrize("over", ["system", "group"])
def test_over_one_way_the_other_stays_as_it_is(over):
    """The figures of clips are those of a test that knows one way alone."""
    pred, target, system, group = listening_test(9, 6)
    none = np.full(len(target), -1)
    sample = make_sample(target, system, ("song", group), over=over)
    words = {"system": "these 6 songs, over systems", "group": "these 9 systems, over songs"}
    assert sample.ways.population == words[over]
    ways = (system, none) if over == "system" else (none, group)
    alone = make_sample(target, ways[0], ("song", ways[1]))
    found, want = (intervals(pred, one, FIGURES) for one in (sample, alone))
    for figure in FIGURES:
        mine = found[figure.name]
        if figure.level == "clip" or (figure.level, over) == ("system", "system"):
            np.testing.assert_array_equal(np.stack(mine), np.stack(want[figure.name]))
        elif figure.level == "group":
            assert (mine.low < mine.value).all()
            assert (mine.value < mine.high).all()
        else:  # ranks of systems that stay jump without a song
            assert np.isfinite(mine.value).all()
            assert np.isnan(mine.low).all()
            assert evidence(figure, pred, sample) is None


def test_many_labels_are_merged_the_same_way_each_time():
    ways = make_ways(5000, ("system", np.full(5000, -1)))
    (label,) = ways.clusters()
    assert np.bincount(label).tolist() == [25] * 200
    np.testing.assert_array_equal(label, ways.clusters()[0])


def test_intervals_are_deterministic_and_the_same_alone_as_in_a_batch():
    pred, target, system, group = listening_test(10, 9, models=3)
    sample = make_sample(target, system, ("song", group))
    batch, again = (intervals(pred, sample, FIGURES) for _ in range(2))
    for m in range(3):
        alone = intervals(pred[m : m + 1], sample, FIGURES)
        for name, estimate in batch.items():
            assert np.isfinite(estimate).all(), name
            assert (estimate.low <= estimate.value).all(), name
            assert (estimate.value <= estimate.high).all(), name
            np.testing.assert_array_equal(estimate, again[name])
            np.testing.assert_allclose(np.array(alone[name])[:, 0], np.array(estimate)[:, m])


@pytest.mark.parametrize(
    ("metric", "systems", "low"),
    # The lower limits that docs/evaluation.md prints.
    [("srcc", 5, 0.16), ("srcc", 6, 0.63), ("srcc", 8, 0.90), ("srcc", 10, 0.96),
     ("srcc", 12, 0.98), ("ktau", 8, 0.70), ("ktau", 10, 0.86), ("ktau", 12, 0.92)],
)  # fmt: skip
def test_a_perfect_ranking_of_a_few_systems_says_little(metric, systems, low):
    quality = np.arange(systems).repeat(6).astype(float)
    sample = make_sample(quality, np.arange(systems).repeat(6), ("song", np.full(6 * systems, -1)))
    noise = np.random.default_rng(0).normal(0, 0.1, (1, len(quality)))
    (figure,) = [f for f in FIGURES if f.name == f"system_{metric}"]
    found = intervals(quality + noise, sample, [figure])[figure.name]
    assert found.value[0] == pytest.approx(1)
    assert found.low[0] == pytest.approx(low, abs=0.006)
    assert found.high[0] == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_ranking_of_a_few_clips_says_little_too(sign):
    quality = np.arange(8.0)
    none = np.full(8, -1)
    found = intervals(
        sign * quality[None] ** 3, make_sample(quality, none, ("song", none)), FIGURES
    )
    low, high = sorted(float(x[0]) * sign for x in found["clip_srcc"][1:])
    assert high == 1
    assert low == pytest.approx(0.90, abs=0.006)
    assert np.isnan(found["system_srcc"].low[0])


def test_too_few_to_tell_have_no_interval():
    pred, target, system, group = listening_test(3, 6)
    found = intervals(pred, make_sample(target, system, ("song", group)), FIGURES)
    assert all(np.isnan(e.low).all() for name, e in found.items() if name.startswith("system"))
    assert np.isfinite(found["clip_srcc"].low).all()
    none = np.full(2, -1)
    two = make_sample(np.array([1.0, 2.0]), none, ("song", none))
    for estimate in intervals(np.array([[1.0, 3.0]]), two, FIGURES).values():
        assert np.isnan(estimate.low).all()
        assert np.isnan(estimate.high).all()


def test_a_perfect_prediction_has_no_error_and_its_interval_is_no_number_or_none():
    _, target, system, group = listening_test(8, 6)
    found = intervals(target[None], make_sample(target, system, ("song", group)), FIGURES)
    assert found["clip_mse"].value[0] == 0
    assert not found["clip_mse"].low[0] > 0
    assert found["clip_lcc"].high[0] == 1


def test_a_share_stays_within_0_and_1():
    pred, target, system, group = listening_test(8, 6)
    sample = make_sample(target, system, ("song", group))

    def hits(p, t, w=None):
        right = ((p > 0) == (t > 0)).double()
        return right.mean(-1) if w is None else (w * right).sum(-1) / w.sum(-1)

    figure = Figure("clip", "hits", hits, "share")
    found = intervals(pred, sample, [figure])["clip_hits"]
    assert (found.low >= 0).all()
    assert (found.high <= 1).all()
    assert (found.low < found.value).all()


class Written:
    """The rules of docs/evaluation.md as they are written, for one model of a full design."""

    def __init__(self, pred, target, system, group):
        self.data = (pred, target, system, group)
        self.S, self.G = len(np.unique(system)), len(np.unique(group))
        block = (system + group) % max(self.S, self.G)
        self.labels = (system, group, block)
        self.error = pred - target

    def t2(self, freedom):
        return scipy.stats.t.ppf(0.975, freedom) ** 2

    def without(self, level, metric, label):
        return np.array(
            [
                reference(level, metric, *(x[label != c] for x in self.data))
                for c in range(label.max() + 1)
            ]
        )

    def v(self, x):
        return (len(x) - 1) / len(x) * np.sum((x - np.mean(x)) ** 2)

    def h2(self, parts, loss, floors=(0, 0)):
        v_s, v_g, v_e = map(self.v, parts)
        of_s = self.t2(self.S - loss) * max(v_s, floors[0])
        of_g = self.t2(self.G - loss) * max(v_g, floors[1])
        return max(of_s, of_g, of_s + of_g - scipy.stats.norm.ppf(0.975) ** 2 * v_e)

    def correlation(self, level, metric):
        r = reference(level, metric, *self.data)
        parts = [np.arctanh(self.without(level, metric, label)) for label in self.labels]
        x, h = np.arctanh(r), np.sqrt(self.h2(parts, 2))
        b = sum((len(part) - 1) * (part.mean() - x) for part in parts[:2])
        return r, np.tanh(x - h - max(0, b)), np.tanh(x + h + max(0, -b))

    def of_systems(self, metric):
        r = reference("system", metric, *self.data)
        smooth = [np.arctanh(self.without("system", "lcc", label)) for label in self.labels]
        whole = self.h2(smooth, 1)
        b = scipy.stats.norm.ppf(0.975) ** 2 / (self.S - 3)
        x = np.arctanh(r)
        if metric == "lcc":
            h2 = min(max(0.75 * whole, b), 4 * b)
        else:
            b *= 1 + r**2 / 2
            if metric == "ktau":
                b = self.t2(self.S - 1) * 0.437 / (self.S - 4)
            v = self.v(np.arctanh(self.without("system", metric, self.labels[0])))
            rho = whole / (self.t2(self.S - 1) * self.v(smooth[0]))
            h2 = min(max(rho, 1), 4) * min(max(self.t2(self.S - 1) * v / 2, b), 4 * b)
        return r, np.tanh(x - np.sqrt(h2)), np.tanh(x + np.sqrt(h2))

    def mse(self, level):
        value = reference(level, "mse", *self.data)
        parts = [self.without(level, "mse", label) / value for label in self.labels]
        floors = []
        for label in self.labels[:2]:
            means = np.array([self.error[label == c].mean() for c in range(label.max() + 1)])
            v, m = means.var(ddof=1), means.mean()
            floors.append((2 * v**2 + 4 * m**2 * v) / (len(means) * value**2))
        if level == "system":
            floors = [0.75 * floors[0], 0]
        h = np.sqrt(self.h2(parts, 1, floors))
        return value, value * np.exp(-h), value * np.exp(h)

    def mse_fit(self, level):
        pred, target, system, _ = self.data
        value = reference(level, "mse_fit", *self.data)
        parts = [self.without(level, "mse_fit", label) / value for label in self.labels]
        if level == "system":
            pred, target = (
                np.array([x[system == s].mean() for s in range(self.S)]) for x in (pred, target)
            )
        rest = target - np.polyval(np.polyfit(pred, target, 1), pred)
        floors = []
        for label in self.labels[:2] if level == "clip" else [np.arange(self.S)]:
            v = np.var([rest[label == c].mean() for c in range(label.max() + 1)], ddof=1)
            floors.append(2 * v**2 / ((label.max() + 1) * value**2))
        if level == "system":
            floors = [0.75 * floors[0], 0]
        h = np.sqrt(self.h2(parts, 1, floors))
        b = sum((len(x) - 1) * (x.mean() - 1) for x in parts[: 2 if level == "clip" else 1])
        return value, value * np.exp(-h - max(0, b)), value * np.exp(h + max(0, -b))


@pytest.mark.parametrize("shared", [0.0, 1.0, 3.0])
def test_intervals_are_those_that_are_written_down(shared):
    # Errors common to a group, from none to most of all: each branch of the rules is met.
    generator = np.random.default_rng(2)
    pred, target, system, group = listening_test(9, 6, holes=0, models=4)
    pred = pred + generator.normal(0, [[0.2], [0.5], [1.0], [2.0]], (4, 9))[:, system]
    pred = pred + shared * generator.normal(size=(4, 6))[:, group]
    found = intervals(pred, make_sample(target, system, ("song", group)), FIGURES)
    for m, row in enumerate(pred):
        written = Written(row, target, system, group)
        want = {
            f"clip_{name}": written.correlation("clip", name) for name in ("lcc", "srcc", "ktau")
        }
        want |= {f"system_{name}": written.of_systems(name) for name in ("lcc", "srcc", "ktau")}
        want |= {f"{level}_mse": written.mse(level) for level in ("clip", "system")}
        want |= {f"{level}_mse_fit": written.mse_fit(level) for level in ("clip", "system")}
        names = ("lcc", "srcc", "ktau")
        want |= {f"group_{name}": written.correlation("group", name) for name in names}
        assert set(want) == set(found)
        for name, one in want.items():
            got = [float(x[m]) for x in found[name]]
            assert got == pytest.approx(one), name


def test_a_group_of_one_prediction_has_no_ranking_with_or_without_a_cluster():
    pred, target, system, group = listening_test(holes=0)
    pred[:, group == 1] = 0.5
    sample = make_sample(target, system, ("song", group))
    found = left_out("group", srcc, pred, sample)
    for m, row in enumerate(pred):
        assert found.value[m] == pytest.approx(within_groups("srcc", row, target, group))
        for part, label in zip(found.parts, sample.ways.clusters(), strict=True):
            kept = [label != c for c in range(label.max() + 1)]
            want = [within_groups("srcc", row[k], target[k], group[k]) for k in kept]
            np.testing.assert_allclose(part[m], want, atol=1e-12)


def test_a_root_has_the_root_of_its_squares_interval():
    pred, target, system, group = listening_test(9, 6)
    sample = make_sample(target, system, ("song", group))
    mse = METRICS["mse"].function
    both = [
        Figure("clip", "mse", mse, "error"),
        Figure("clip", "rmse", lambda p, t, w=None: mse(p, t, w).sqrt(), "error"),
    ]
    found = intervals(pred, sample, both)
    for square, root in zip(found["clip_mse"], found["clip_rmse"], strict=True):
        np.testing.assert_allclose(root**2, square)


def test_errors_without_a_rule_of_their_own_written_down():
    """The MAE has a quarter of the MSE's floor; the error after a fit reaches its larger truth."""
    pred, target, system, group = listening_test(9, 6, holes=0)
    # An error that is the same for all clips of a song, and nearly the same in size for all songs.
    pred = target + 0.5 * (-1.0) ** group + np.random.default_rng(0).normal(0, 0.01, (1, 54))

    def mae(p, t, w=None):
        gap = (p.double() - t).abs()
        return gap.mean(-1) if w is None else (w * gap).sum(-1) / w.sum(-1)

    def mse_fit(p, t, w=None):
        w = torch.ones_like(t) if w is None else w
        r = lcc(p, t, w)
        mean = (w * t).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)
        return (w * (t - mean) ** 2).sum(-1) / w.sum(-1) * (1 - r**2)

    figures = [
        Figure("clip", "mae", mae, "error"),
        Figure("clip", "mse", METRICS["mse"].function, "error"),
        Figure("system", "mse_fit", mse_fit, "error"),
    ]
    sample = make_sample(target, system, ("song", group))
    found = intervals(pred, sample, figures)
    for_mae, for_mse = (
        np.log(found[name].high / found[name].value) for name in ("clip_mae", "clip_mse")
    )
    # The floor decides both here, so that one half width is half of the other.
    assert for_mse[0] > 0.5
    assert for_mae == pytest.approx(for_mse / 2, rel=0.05)
    noisy = pred + np.random.default_rng(1).normal(0, 1, (1, 9))[:, system]
    fit = intervals(noisy, sample, figures)["system_mse_fit"]
    # A line through nine systems leaves too little by about 2 / 9.
    assert fit.high[0] * fit.low[0] / fit.value[0] ** 2 > 1 + 2 / 9


def test_one_way_alone_uses_its_own_quantile():
    pred, target, system, group = listening_test(9, 6, holes=0)
    sample = Sample(target, make_ways(54, ("song", group)), system, group)
    (figure,) = [f for f in FIGURES if f.name == "clip_lcc"]
    found = interval(figure, left_out("clip", lcc, pred, sample), pred, sample)
    for row, _, low, high in zip(pred, *found, strict=True):
        written = Written(row, target, system, group)
        part = np.arctanh(written.without("clip", "lcc", group))
        x = np.arctanh(scipy.stats.pearsonr(row, target).statistic)
        h, b = np.sqrt(written.t2(4) * written.v(part)), 5 * (part.mean() - x)
        want = np.tanh(x - h - max(0, b)), np.tanh(x + h + max(0, -b))
        assert (low, high) == pytest.approx(want)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """A small size of benchmarks/coverage.py: within its limits, and 3.5 standard errors."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("benchmarks_coverage", path)
    coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coverage)
    rows, choices = {}, {}
    for row in ("sys 8x12", "grp 24x8"):
        rows[row] = coverage.run_row(row, 80, 1, map)
    grids = [coverage.one_grid(("sys 8x12", 1, k)) for k in range(40)]
    # The row that trains ridge works.
    assert set(coverage.ridge_test(1, 0)["heads"]) == {"known systems", "new systems"}
    choices["sys 8x12"] = {"put_out": {k: np.mean([g[k] for g in grids]) for k in grids[0]}}
    assert not coverage.outside({"rows": rows, "choices": choices}, 0.085)


def test_system_scores_without_a_cluster_take_no_table_of_clips_and_systems():
    """100,000 clips of 2,000 systems took a table of 1.6 GB a step."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                self.size = max(self.size, found.numel())
            return found

    generator = np.random.default_rng(0)
    clips, systems = 1200, 300
    system = np.arange(clips) % systems
    group = generator.integers(0, 40, clips)
    sample = make_sample(generator.uniform(1, 5, clips), system, ("group", group))
    with Largest() as largest:
        left_out("system", srcc, generator.uniform(1, 5, (2, clips)), sample)
    assert largest.size <= 70 * clips
