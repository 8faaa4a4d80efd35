"""What a head reads: expressions, joined caches, projections, layer sweeps; no leak."""

import dataclasses
import json

import fake_encoder
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from qamro_cache_cli.train import main as train_main
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import mel, registry
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.train import train
from qamro_cache.extraction.extract import extract
from qamro_cache.features.expression import Call, Join, Read, parse
from qamro_cache.features.lookup import resolved, widths
from qamro_cache.features.sources import join_caches
from qamro_cache.features.vectors import clip_vectors, principal_components
from qamro_cache.heads.file import load_head
from qamro_cache.heads.ridge import fit_ridge
from qamro_cache.scoring.predict import predict

QUICK = {"widths": (8,), "epochs": 3, "lr": 0.01}
JOIN = "one.embedding + std(two.layers[1:3]) + project(two.layers, 4)"


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Two encoders of the same clips; the second has five fewer."""
    folder = tmp_path_factory.mktemp("features")
    return [
        write_synthetic(folder / "one.h5", name="one"),
        write_synthetic(folder / "two.h5", name="two", clips=35, factor=-2.0),
    ]


def trees():
    words = st.text("abz09_-", min_size=1, max_size=4) | st.sampled_from(["hf:a/b", "it's", "x y"])
    layers = st.sampled_from(["", "0", "3", "1:4", "*"])
    leaf = st.builds(Read, st.just("") | words, words, layers)
    over = st.builds(Call, st.sampled_from(["mean", "std"]), leaf)

    def join(parts):
        flat = [p for one in parts for p in (one.parts if isinstance(one, Join) else (one,))]
        return Join(tuple(flat))

    return st.recursive(
        leaf | over,
        lambda inner: (
            st.builds(join, st.lists(inner, min_size=2, max_size=3))
            | st.builds(Call, st.just("project"), inner, st.integers(1, 999))
        ),
        max_leaves=5,
    )


@given(trees())
def test_an_expression_is_read_as_it_is_written(tree):
    assert parse(str(tree)) == tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one.embedding +", "a name belongs where it ends"),
        ("one.embedding two", "'two' is one too many"),
        ("stdd(embedding)", "no function 'stdd'; did you mean 'std'"),
        ("project(embedding)", "',' is missing"),
        ("project(embedding, 0)", "leaves nothing"),
        ("project(embedding, x)", "'x' is no number"),
        ("std(one.a + two.b)", "over the windows of one feature"),
        ("layers[4:2]", "no layer"),
        ("layers[4", "']' is missing"),
        ("a & b", "'&' means nothing"),
        ("project(" * 30 + "a", "nested too deep"),
        ("a + " * 999 + "a", "more than 2000 characters"),
    ],
)
def test_an_expression_with_a_mistake_is_one_line(text, said):
    with pytest.raises(OptionError) as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("two.embeding", "has no feature 'embeding'; there are: embedding, layers; did you mean"),
        ("tow.embedding", "no cache of encoder 'tow'; there are: one, two; did you mean 'two'"),
        ("embedding", "is in several caches; name its encoder: one.embedding or two.embedding"),
        ("one.layers[3]", "'layers' has 3 layers, 0 to 2"),
        ("one.embedding[0]", "has no layers"),
        ("one.layers[*]", "for qamro-ablate"),
        ("project(one.embedding, 40)", "need more training clips than that"),
    ],
)
def test_a_feature_that_is_not_there_is_one_line(caches, tmp_path, text, said):
    with pytest.raises(OptionError) as error:
        train(caches, tmp_path / "run", feature=text, **QUICK, cv="3", seeds=1)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    command = ["--cache", *map(str, caches[:1]), "--cache", str(caches[1]), "--feature", text]
    result = CliRunner().invoke(train_main, [*command, "--cv", "3", "--out", str(tmp_path / "r")])
    assert result.exit_code == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("pooling", ["attention", "scores", "max"])
def test_a_join_is_of_clip_vectors(caches, tmp_path, pooling):
    with pytest.raises(OptionError, match=f"pooling={pooling} is of windows"):
        train(caches, tmp_path, feature="one.embedding + two.embedding", pooling=pooling)


def test_vectors_are_those_of_a_double_loop(caches):
    """Weighted means and deviations of every clip's windows, joined by clip id."""
    sources = join_caches(caches[::-1])
    text = "mean(one.layers[1:3]) + std(two.embedding) + one.embedding"
    expression = resolved(parse(text), sources.identities)
    assert widths(expression, sources.identities) == (6, 6, 6, 6)
    found = clip_vectors(expression, sources).values({}).numpy()
    one, two = map(open_cache, caches)
    layers, _, _ = one.read("layers")
    for row, name in enumerate(sources.clips["clip_id"]):
        k, m = (int(np.flatnonzero(c.clips["clip_id"] == name)[0]) for c in (one, two))
        parts = []
        for cache, at, values in ((one, k, layers[:, 1:3]), (two, m, None), (one, k, None)):
            windows, offsets, weights = (part.double().numpy() for part in cache.read("embedding"))
            windows = windows if values is None else values.double().numpy().reshape(-1, 12)
            span = slice(int(offsets[at]), int(offsets[at + 1]))
            some, share = windows[span], weights[span]
            mean = sum(w * s for w, s in zip(some, share, strict=True)) / max(share.sum(), 1e-9)
            if cache is two:
                squares = sum(s * (w - mean) ** 2 for w, s in zip(some, share, strict=True))
                parts.append(np.sqrt(squares / max(share.sum(), 1e-9)) + np.zeros(6))
                if len(some) == 1:
                    assert (found[row, 12:18] == 0).all()
            else:
                parts.append(mean + np.zeros(windows.shape[1]))
        np.testing.assert_allclose(found[row], np.concatenate(parts), atol=2e-5)


def test_a_projection_is_the_folds_principal_components(caches):
    sources = join_caches(caches[0])
    vectors = clip_vectors(parse("project(layers, 5)"), sources)
    rows = np.flatnonzero(sources.clips["status"] == "ok")
    for train_rows in (rows[:12], rows):
        fitted = vectors.fit(torch.from_numpy(train_rows))
        found = vectors.values(fitted).numpy()[rows]
        plain = clip_vectors(parse("mean(layers)"), sources).values({}).double().numpy()
        mean = plain[train_rows].mean(0)
        _, _, basis = np.linalg.svd(plain[train_rows] - mean, full_matrices=False)
        basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(1)])[:, None]
        np.testing.assert_allclose(found, (plain[rows] - mean) @ basis[:5].T, atol=1e-4)


@pytest.mark.parametrize("clips", [30, 200])
def test_a_projection_leaves_out_what_does_not_vary_in_training(clips):
    """Rounding there would be the unit of a held-out clip: copies, a number that is constant."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(clips // 3, 100, generator=made).repeat(3, 1)
    x[:, 90:] = 5.0
    few = min(clips // 3 - 1, 90)
    fitted = principal_components(x, Call("project", Read("", "x"), few + 4 if clips < 99 else 95))
    size = fitted.basis.norm(dim=0)
    known = min(few, len(size)) if clips < 99 else min(clips // 3 - 1, 90)
    np.testing.assert_allclose(size[:known], 1, rtol=1e-5)
    assert (size[known:] == 0).all()
    assert len(size) > known


def test_a_prompt_that_the_joined_cache_lacks_is_one_line(tmp_path):
    """Not another clip's prompt."""
    caches = [
        write_synthetic(tmp_path / "one.h5", name="one"),
        write_synthetic(tmp_path / "two.h5", name="two", promptless=(5, 9)),
    ]
    # The prompts are those of the encoder that is named first.
    with pytest.raises(QamroError, match=r"two.h5 has no prompt of 2 clips .*one.h5.*'clip005'"):
        train(
            caches, tmp_path / "run", feature="two.embedding + one.embedding", inputs="concat",
            cv="3", head="ridge",
        )  # fmt: skip


def test_clips_that_a_cache_lacks_are_named_and_left_out(caches, tmp_path, caplog):
    train(caches, tmp_path, feature=JOIN, **QUICK, cv="3", seeds=1)
    assert "5 clips that" in caplog.text
    assert "two.h5 does not have (clip035, clip036, " in caplog.text
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["clip_id"].nunique() == 34


def test_caches_of_other_clips_are_refused(caches, tmp_path):
    other = write_synthetic(tmp_path / "other.h5", name="three", prefix="x")
    with pytest.raises(QamroError, match="have no clip in common"):
        join_caches([caches[0], other])
    sound = write_synthetic(tmp_path / "sound.h5", name="three", seed=1)
    with pytest.raises(QamroError, match=r"'clip000' is another sound in .*sound\.h5 than in"):
        join_caches([caches[0], sound])


def test_baselines_see_what_the_heads_see(caches, tmp_path):
    """Ridge on joined vectors, each part a block, against the formula on numpy's own join."""
    asked = {"feature": "one.embedding + two.layers[1]", "cv": "group", "axis": "quality"}
    record = train(caches, tmp_path / "ridge", head="ridge", **asked)
    beside = train(caches, tmp_path / "mlp", seeds=1, **QUICK, **asked)
    table = pd.read_csv(tmp_path / "ridge" / "predictions.csv").set_index("clip_id")
    sources = join_caches(caches)
    rows = [int(np.flatnonzero(sources.clips["clip_id"] == name)[0]) for name in table.index]
    one, two = map(open_cache, caches)
    plain = one.table("embedding").filter(like="embedding_").loc[table.index]
    layer = two.table("layers").filter(like="layers_1_").loc[table.index]
    x = np.concatenate([plain, layer], 1).astype(float)
    groups = np.unique(sources.clips["group"].to_numpy(str)[rows], return_inverse=True)[1]
    y = table["target"].to_numpy()
    for group in np.unique(groups):
        held = groups == group
        fitted = fit_ridge(x[~held], y[~held], (6, 6), groups[~held])
        found = table["prediction"].to_numpy()[held]
        np.testing.assert_allclose(found, fitted.predict(x[held]), rtol=1e-4)
    ridge = beside["axes"]["quality"]["models"]["ridge"]["metrics"]["clip_mse"]["value"]
    head = record["axes"]["quality"]["models"]["ridge head"]["metrics"]["clip_mse"]["value"]
    assert ridge == pytest.approx(head, rel=1e-6)


@pytest.mark.parametrize(
    ("feature", "head"),
    [(JOIN, QUICK), (JOIN, {"head": "ridge"}), ("one.layers[2]", QUICK)],
)
def test_a_folds_head_says_again_what_it_predicted(caches, tmp_path, head, feature):
    """The file has all it needs: expression, identities, the fold's own projection."""
    seeds = {} if "head" in head else {"seeds": 1}
    train(caches, tmp_path, feature=feature, cv="4", save_folds=True, **head, **seeds)
    table = pd.read_csv(tmp_path / "predictions.csv", dtype={"fold": str})
    heads = {load_head(p).training["held_out"]: p for p in (tmp_path / "folds").iterdir()}
    assert len(heads) == 4
    for fold, part in table.groupby("fold"):
        again = predict(heads[fold], caches[::-1]).set_index(["axis", "clip_id"])["prediction"]
        mine = part.set_index(["axis", "clip_id"])["prediction"]
        np.testing.assert_allclose(again.loc[mine.index], mine, rtol=1e-4)


def test_a_head_refuses_other_encoders(caches, tmp_path):
    train(caches, tmp_path, feature=JOIN, **QUICK, cv="3", seeds=1)
    head = load_head(tmp_path)
    assert head.feature == JOIN
    assert [one["name"] for one in head.identities] == ["one", "two"]
    with pytest.raises(QamroError, match="trained on embeddings of another identity"):
        predict(head, caches[0])
    three = write_synthetic(tmp_path / "three.h5", name="three")
    with pytest.raises(QamroError, match="reads two too, and there is no cache of it"):
        predict(head, [caches[0], three])
    table = predict(head, caches)
    lacking = table[table["clip_id"] == "clip039"]
    assert lacking["prediction"].isna().all()
    assert lacking["reason"].str.startswith("it is not in").all()


def test_all_layers_are_one_stack(caches, tmp_path, stacks, monkeypatch):
    """A sweep trains what single runs train, in one stack a shape where one core takes all."""
    monkeypatch.setattr("qamro_cache.training.chunks.CPU_STACKS", 1)
    shared = {**QUICK, "axis": "quality", "seeds": 2, "cv": "4", "resamples": 0}
    ablate(caches[0], tmp_path / "sweep", feature="layers[*]", **shared)
    assert stacks == [3 * 2 * 4]
    sweep = pd.read_csv(tmp_path / "sweep" / "results.csv")
    sweep = sweep[sweep["model"] == "head"]
    assert list(dict.fromkeys(sweep["feature"])) == ["layers[0]", "layers[1]", "layers[2]"]
    ablate(caches[0], tmp_path / "one", feature="layers[1]", **shared)
    one = pd.read_csv(tmp_path / "one" / "results.csv")
    one = one[one["model"] == "head"]["clip_mse"].to_numpy()
    np.testing.assert_allclose(sweep[sweep["feature"] == "layers[1]"]["clip_mse"], one, rtol=1e-5)


def test_layers_of_several_encoders(caches, tmp_path):
    ablate(
        caches, tmp_path, feature=["layers[*]", "one.embedding + two.embedding", "embedding"],
        head="ridge", axis="quality", cv="3", resamples=0,
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "summary.csv", keep_default_na=False)
    table = table[table["model"] == "head"]
    layers = [f"{encoder}.layers[{k}]" for encoder in ("one", "two") for k in range(3)]
    # The tables show what is read of the caches that are named there.
    assert len(table) == 6 + 1 + 2
    assert sorted(zip(table["encoder"], table["feature"], strict=True)) == sorted(
        [(e, f"layers[{k}]") for e in ("one", "two") for k in range(3)]
        + [("one + two", "one.embedding + two.embedding")]
        + [("one", "embedding"), ("two", "embedding")]
    )
    cells = json.loads((tmp_path / "config.json").read_text())["cells"]
    assert [cell["feature"] for cell in cells][:6] == layers
    with pytest.raises(OptionError, match="has a cell twice"):
        ablate(caches[0], tmp_path / "x", feature=["layers[*]", "layers[1]"], head="ridge")


def test_labels_that_are_held_out_change_nothing(caches, tmp_path):
    """Permuted among the held-out clips, they leave every prediction of theirs bit-identical."""
    labels = open_cache(caches[0]).labels.mean[:, 0]
    clips = open_cache(caches[0]).clips
    found = []
    for held in (labels, np.where(clips["group"] == "G2", np.roll(labels, 1), labels)):
        table = pd.DataFrame({"clip_id": clips["clip_id"], "quality": held})
        table.to_csv(tmp_path / "labels.csv", index=False)
        out = tmp_path / str(len(found))
        train(
            caches, out, feature=JOIN, labels=tmp_path / "labels.csv", cv="group", axis="quality",
            **QUICK, seeds=1,
        )  # fmt: skip
        one = pd.read_csv(out / "predictions.csv")
        found.append(one[one["fold"] == "G2"])
    assert (found[0]["target"].to_numpy() != found[1]["target"].to_numpy()).all()
    np.testing.assert_array_equal(found[0]["prediction"], found[1]["prediction"])


def test_a_held_out_sound_changes_no_training_feature(caches):
    """What a fold's training clips are seen as does not depend on a held-out clip's audio."""
    sources = join_caches(caches)
    vectors = clip_vectors(resolved(parse(JOIN), sources.identities), sources)
    rows = np.flatnonzero(sources.clips["status"] == "ok")
    held, kept = int(rows[7]), torch.from_numpy(np.delete(rows, 7))
    before = vectors.values(vectors.fit(kept))
    leaves = {leaf: values.clone() for leaf, values in vectors.leaves.items()}
    for values in leaves.values():
        values[held] += 1000
    changed = dataclasses.replace(vectors, leaves=leaves)
    after = changed.values(changed.fit(kept))
    assert torch.equal(before[kept], after[kept])
    assert not torch.equal(before[held], after[held])


def test_audio_goes_through_every_encoder_of_a_head(tmp_path, monkeypatch):
    """The same scores from audio as from the caches of both encoders."""
    clips = []
    rng = np.random.default_rng(0)
    for k in range(12):
        soundfile.write(tmp_path / f"{k}.wav", rng.normal(size=12000 + 1000 * k) * 0.1, 16000)
        clips.append({"clip_id": f"{k}.wav", "path": f"{k}.wav", "group": k % 3, "q": 1 + k % 5})
    pd.DataFrame(clips).to_csv(tmp_path / "clips.csv", index=False)
    monkeypatch.setattr(registry, "list_encoders", lambda: [mel.INFO, fake_encoder.INFO])
    caches = [tmp_path / "mel.h5", tmp_path / "fake.h5"]
    for cache in caches:
        extract(None, cache, cache.stem, manifest=tmp_path / "clips.csv")
    feature = "project(mel.statistics, 3) + std(fake.layers[1]) + fake.embedding"
    train(caches, tmp_path / "run", feature=feature, head="ridge", cv="group")
    folder = tmp_path / "sounds"
    folder.mkdir()
    for k in range(12):
        (tmp_path / f"{k}.wav").rename(folder / f"{k}.wav")
    table = predict(tmp_path / "run", audio=folder, out=tmp_path / "out.csv")
    again = predict(tmp_path / "run", caches).set_index("clip_id").loc[table["clip_id"]]
    np.testing.assert_allclose(table["prediction"], again["prediction"], rtol=1e-6)
    assert not list(tmp_path.glob("out.csv.emb*"))
