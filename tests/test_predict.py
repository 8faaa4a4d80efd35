"""Predictions from a head file against torch.nn modules, clip by clip."""

import hashlib
import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from qamro_cache.cache.content import CacheContent, Header, clip_table
from qamro_cache.cache.reader import open_cache
from qamro_cache.cache.writer import write_cache
from qamro_cache.datasets.records import Axis, Dataset, labels_from_means
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.by_system import system_means
from qamro_cache.heads.file import save_head
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.network import Architecture
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import init_params
from qamro_cache.heads.trained import trained_clips, trained_on
from qamro_cache.identity import AudioPolicy, EncoderSpec, identity_of
from qamro_cache.scoring.predict import predict, write_predictions

SPEC = EncoderSpec(
    "fake", "1", AudioPolicy(16000, 16000, 16000), {"embedding": (6,)}, {"text": (3,)}
)
SETTINGS = Architecture(widths=(5,), activation="relu")


@pytest.fixture
def cache(tmp_path):
    """Nine clips of one to three windows; clip 4 failed, clip 7 has no prompt."""
    rng = np.random.default_rng(0)
    counts = np.array([1, 2, 3, 1, 0, 2, 2, 1, 3])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns = {
        "clip_id": [f"c{i}" for i in range(9)],
        "path": [f"/c{i}.wav" for i in range(9)],
        "system": [f"S{i % 3}" for i in range(9)],
        "group": "g",
        "split": "",
        "prompt": ["", *["hum", "drum"] * 4],
        "status": ["ok"] * 9,
        "reason": [""] * 9,
    }
    columns["prompt"][7] = ""
    columns["status"][4], columns["reason"][4] = "empty", "no samples"
    columns |= {"audio_sha256": "0" * 64, "duration": 1.0, "audio_bytes": 1, "audio_mtime_ns": 1}
    content = CacheContent(
        clips=clip_table(pd.DataFrame(columns)),
        labels=labels_from_means((Axis("quality", 0, 100),), rng.uniform(0, 100, (9, 1))),
        offsets=offsets,
        weights=rng.uniform(0.1, 1, offsets[-1]).astype(np.float32),
        starts=np.zeros(offsets[-1], np.int64),
        features={"embedding": rng.normal(size=(offsets[-1], 6)).astype(np.float32)},
        prompts=("drum", "hum"),
        text_features={"text": rng.normal(size=(2, 3)).astype(np.float32)},
    )
    write_cache(tmp_path / "emb.h5", content, Header(identity_of(SPEC), "made up", True))
    return open_cache(tmp_path / "emb.h5")


def make_head(settings=SETTINGS, row=6, **changes):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(3))
    one = AxisHead(
        Axis("quality", 0.0, 100.0),
        (4, 5),
        init_params(settings, (row,), [4, 5]),
        label_mean=40.0,
        label_std=15.0,
        row_mean=torch.linspace(-1, 1, row),
        row_std=torch.linspace(0.5, 2, row),
    )
    head = Head(
        settings, (row,), "embedding", "", (identity_of(SPEC),), (one,), reference_clips(rows), {}
    )
    return replace(head, **changes)


def by_modules(head, rows):
    """Each member as torch modules: [members, C]."""
    one = head.axes[0]
    outputs = []
    for member in range(len(one.seeds)):
        first, last = torch.nn.Linear(rows.shape[1], 5), torch.nn.Linear(5, 1)
        with torch.no_grad():
            for layer, name in ((first, "0"), (last, "output")):
                layer.weight.copy_(one.params[f"{name}.weight"][member].T)
                layer.bias.copy_(one.params[f"{name}.bias"][member])
            net = torch.nn.Sequential(first, torch.nn.ReLU(), last)
            outputs.append(40 + 15 * net((rows - one.row_mean) / one.row_std)[:, 0])
    return torch.stack(outputs).numpy()


def pooled(cache):
    windows, offsets, weights = cache.read("embedding")
    rows = []
    for start, stop in itertools.pairwise(offsets):
        w = weights[start:stop, None]
        rows.append((windows[start:stop] * w).sum(0) / w.sum())
    return torch.stack(rows)


@pytest.mark.parametrize("windows_at_once", [1, 4, 8192])
def test_members_are_averaged_in_the_axis_units(cache, monkeypatch, windows_at_once):
    monkeypatch.setattr("qamro_cache.scoring.scores._WINDOWS", windows_at_once)
    head = make_head()
    table = predict(head, cache=cache)
    members = by_modules(head, pooled(cache))
    used = np.arange(9) != 4
    np.testing.assert_allclose(table["prediction"][used], members.mean(0)[used], rtol=1e-5)
    np.testing.assert_allclose(table["std"][used], members.std(0, ddof=1)[used], rtol=1e-4)
    np.testing.assert_array_equal(table["target"], cache.labels.mean[:, 0])
    assert table["scale"].unique().tolist() == ["0..100"]


def test_a_guessed_scale_is_named_as_one(cache):
    head = make_head()
    axis = replace(head.axes[0].axis, guessed=True)
    guessed = replace(head, axes=(replace(head.axes[0], axis=axis), *head.axes[1:]))
    assert set(predict(guessed, cache)["scale"]) == {"0..100 (guessed)"}


def test_a_failed_clip_keeps_its_row_and_reason(cache):
    row = predict(make_head(), cache=cache).iloc[4]
    assert np.isnan(row["prediction"])
    assert (row["clip_id"], row["reason"]) == ("c4", "no samples")


def test_a_head_on_audio_and_prompt(cache):
    settings = replace(SETTINGS, inputs="concat")
    head = make_head(settings, 9, text_feature="text")
    table = predict(head, cache=cache)
    text = cache.read_text("text")
    rows = torch.cat([pooled(cache), text.embeddings[text.index]], 1)
    used = ~np.isin(np.arange(9), [0, 4, 7])
    np.testing.assert_allclose(
        table["prediction"][used], by_modules(head, rows).mean(0)[used], rtol=1e-5
    )
    assert table["reason"].tolist() == [
        "no prompt",
        *[""] * 3,
        "no samples",
        "",
        "",
        "no prompt",
        "",
    ]
    assert table["prediction"].isna().sum() == 3


def test_embeddings_of_another_encoder_are_refused(cache):
    other = identity_of(replace(SPEC, version="2", checkpoint_sha256="ab", precision="tf32"))
    with pytest.raises(
        QamroError, match=r"checkpoint_sha256: 'ab' here, '' there; .* \(and 1 more\)"
    ):
        predict(make_head(identities=(other,)), cache=cache)


def test_a_cache_without_the_feature_is_refused(cache):
    with pytest.raises(QamroError, match="has no feature 'layers'; there are: embedding"):
        predict(make_head(feature="layers"), cache=cache)


def test_a_clip_unlike_the_training_set_is_marked(cache):
    assert not predict(make_head(), cache=cache)["ood"].any()
    near = make_head()
    reference = replace(near.reference, mean=near.reference.mean + 50)
    table = predict(replace(near, reference=reference), cache=cache)
    assert table["ood"].tolist() == [True] * 4 + [False] + [True] * 4


def test_a_folder_of_audio_is_embedded_with_the_heads_own_encoder(tmp_path, caplog):
    soundfile = pytest.importorskip("soundfile")
    from qamro_cache.datasets.manifest import load_manifest
    from qamro_cache.encoders.registry import load_encoder
    from qamro_cache.extraction.extract import extract

    rng = np.random.default_rng(0)
    folder = tmp_path / "audio" / "deep"
    folder.mkdir(parents=True)
    for name in ("a.wav", "b.flac"):
        soundfile.write(folder / name, rng.uniform(-0.5, 0.5, 16000), 16000)
    (folder / "broken.wav").write_text("this is no sound")
    # What macOS leaves beside a file is no clip.
    (folder / "._a.wav").write_bytes(b"\0\5\26\7 Mac OS X")
    for name in ("c.m4a", "d.M4A", "e.webm", "notes.txt"):
        (folder / name).write_bytes(b"?")
    manifest = tmp_path / "clips.csv"
    manifest.write_text("clip_id,path\n1,audio/deep/a.wav\n2,audio/deep/b.flac\n")
    encoder = load_encoder("mel")
    extract(load_manifest(manifest), tmp_path / "emb.h5", encoder)
    name, (width,) = next(iter(encoder.spec.features.items()))
    one = replace(
        make_head().axes[0],
        params=init_params(SETTINGS, (width,), [4, 5]),
        row_mean=torch.zeros(width),
        row_std=torch.ones(width),
    )
    head = make_head(feature=name, row=width, identities=(identity_of(encoder.spec),), axes=(one,))
    rows = torch.randn(30, width, generator=torch.Generator().manual_seed(0))
    head = replace(head, reference=reference_clips(rows))
    with caplog.at_level("INFO"):
        table = predict(head, audio=tmp_path / "audio")
    assert "folders are taken for systems, which --manifest names: deep\n" in caplog.text
    assert "left out: 2 .m4a, 1 .webm, which cannot be read here (deep/c.m4a, " in caplog.text
    assert "deep/e.webm); convert with:" in caplog.text
    assert set(table["system"]) == {"deep"}
    assert table["clip_id"].tolist() == ["deep/a.wav", "deep/b.flac", "deep/broken.wav"]
    from_cache = predict(head, cache=tmp_path / "emb.h5")
    at_hand = predict(head, clips=load_manifest(manifest))
    np.testing.assert_array_equal(at_hand["prediction"], from_cache["prediction"])
    with pytest.raises(QamroError, match="name one of"):
        predict(head, tmp_path / "emb.h5", clips=load_manifest(manifest))
    np.testing.assert_array_equal(table["prediction"][:2], from_cache["prediction"])
    assert np.isnan(table["prediction"][2])
    assert table["reason"][2]


def test_what_the_columns_count_is_said_below_them(capsys):
    from qamro_cache_cli.predict import _show

    systems = ["a"] * 3 + ["b"] * 3
    table = pd.DataFrame(
        {
            "clip_id": [f"c{k}" for k in range(6)],
            "system": systems,
            "axis": "quality",
            "prediction": [10.0, 20, 30, 40, 50, 60],
            "std": 1.0,
            "scale": "0-100",
            "ood": [True, False, False, True, True, False],
            "trained_on": ["no", "no", "near", "no", "no", "no"],
        }
    )
    _show(table, "a title")
    lines = capsys.readouterr().out.splitlines()
    assert "ood on quality, by system: b 2, a 1" in lines
    assert "near: clips that sound like one that the head was trained on" in lines
    assert any(line.startswith("ood: out of distribution, farther from") for line in lines)
    _show(table.assign(ood=False, trained_on="no"), "a title")
    said = capsys.readouterr().out
    assert "ood:" not in said
    assert "near:" not in said


def test_a_file_of_another_kind_is_not_overwritten(cache, tmp_path):
    table = predict(make_head(), cache=cache)
    write_predictions(table, tmp_path / "out.csv")
    write_predictions(table, tmp_path / "out.csv")
    precious = tmp_path / "ratings.csv"
    of_train = "clip_id,system,group,axis,seed,fold,prediction,target\n"
    for columns in ("clip_id,path,quality\n", of_train):
        precious.write_text(columns)
        with pytest.raises(QamroError, match="choose another name"):
            write_predictions(table, precious)
        assert precious.read_text() == columns


def test_a_file_that_is_kept_is_refused_before_the_work(cache, tmp_path, monkeypatch):
    """Embedding a folder may take hours."""
    from click.testing import CliRunner
    from qamro_cache_cli.predict import main

    save_head(tmp_path / "head.safetensors", make_head())
    (tmp_path / "ratings.csv").write_text("clip_id,path,quality\n")
    monkeypatch.setattr(
        "qamro_cache.scoring.predict.predict", lambda *_, **__: pytest.fail("worked")
    )
    arguments = ["--head", str(tmp_path / "head.safetensors"), "--audio", str(tmp_path)]
    failed = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "ratings.csv")])
    assert failed.exit_code == 1, failed.output
    assert "choose another name" in failed.stderr


def track_1(**changes):
    axes = [replace(make_head().axes[0], axis=Axis(n, 0.0, 100.0)) for n in ("overall", "textual")]
    return make_head(axes=tuple(axes), **changes)


def test_an_answer_in_the_lists_order(cache, tmp_path):
    (tmp_path / "list.txt").write_text("c3\nc0.wav\n")
    answer = {"answer": tmp_path / "answer.txt", "answer_list": tmp_path / "list.txt"}
    table = predict(track_1(), cache=cache, **answer).set_index(["clip_id", "axis"])["prediction"]
    lines = [line.split(",") for line in (tmp_path / "answer.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["c3", "c0"]
    for name, *scores in lines:
        assert [float(x) for x in scores] == [table[name, "overall"], table[name, "textual"]]


@pytest.mark.parametrize(
    ("head", "ids", "words"),
    [
        (make_head(), "c0", "this head predicts quality"),
        (track_1(), None, "no such file; give the challenge's list"),
        (track_1(), "c0\nc12\nc13", "2 of 3 listed clips have no prediction, the first is 'c12'"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_before_the_work(
    cache, tmp_path, monkeypatch, head, ids, words
):
    """Embedding a folder may take hours."""
    for name in ("score_clips", "_embedded"):
        monkeypatch.setattr(f"qamro_cache.scoring.predict.{name}", lambda *_: pytest.fail("worked"))
    if ids is not None:
        (tmp_path / "list.txt").write_text(ids)
    clips = Dataset("mine", cache.clips, cache.labels)
    outputs = {"out": tmp_path / "out.csv", "answer": tmp_path / "answer.txt"}
    for source in ({"cache": cache}, {"clips": clips}):
        with pytest.raises(QamroError, match=words):
            predict(head, **source, **outputs, answer_list=tmp_path / "list.txt")
    assert not (tmp_path / "out.csv").exists()


def test_one_name_for_both_outputs_keeps_the_table(cache, tmp_path):
    out = tmp_path / "out.csv"
    with pytest.raises(QamroError, match="is named for two outputs"):
        predict(track_1(), cache, out=out, answer=out)
    assert len(pd.read_csv(out)) == 2 * len(cache.clips)


def test_two_clips_of_one_stem_are_no_answer_and_told_before_the_work(cache, tmp_path, monkeypatch):
    clips = cache.clips.copy()
    clips.loc[:1, "clip_id"] = ["a.wav", "a.flac"]
    monkeypatch.setattr("qamro_cache.scoring.predict._embedded", lambda *_: pytest.fail("ran"))
    with pytest.raises(QamroError, match="clip 'a' has two predictions"):
        predict(track_1(), clips=Dataset("x", clips, cache.labels), answer=tmp_path / "answer.txt")


def test_no_device_named_is_one_that_is_there(cache):
    table = predict(make_head(), cache=cache, device="")
    np.testing.assert_allclose(
        table["prediction"], predict(make_head(), cache=cache)["prediction"], rtol=1e-4
    )


def test_a_clip_is_known_by_its_file_or_its_samples_and_never_by_its_name(cache, caplog):
    """On each axis by itself; hashes that nobody has noted match nothing."""
    clips = cache.clips.copy()
    clips["audio_sha256"] = [hashlib.sha256(b"%d" % k).hexdigest() for k in range(9)]
    clips["samples_sha256"] = [hashlib.sha256(b"s%d" % k).hexdigest() for k in range(9)]
    learned = np.zeros((9, 2), bool)
    learned[[0, 2, 5], 0] = learned[7, 1] = True
    none = [np.zeros(0, np.uint8)] * 9
    head = track_1(trained=trained_clips(clips, learned, none))
    now = clips.copy()
    # Another file of the same samples; the same file, not decoded; other sound by an old name.
    now.loc[2, "audio_sha256"] = now.loc[5, "samples_sha256"] = ""
    now.loc[0, ["audio_sha256", "samples_sha256"]] = "f" * 64
    now.loc[8, ["audio_sha256", "samples_sha256"]] = ["no hash", ""]
    said = trained_on(head.trained, 2, now, none).tolist()
    assert said[0] == ["no", "no", "yes", "no", "no", "yes", "no", "no", ""]
    assert said[1] == ["no"] * 7 + ["yes", ""]
    assert set(trained_on(None, 2, now, none).flat) == {""}
    predict(head, cache=cache)
    assert "no sign of how good" not in caplog.text, "the cache of the test has no hashes"
    cache.clips[list(now)] = now
    table = predict(head, cache=cache)
    assert table["trained_on"].tolist() == [*said[0], *said[1]]
    assert "trained on 3 of these 8 clips: what it says about them is no sign" in caplog.text


def test_most_clips_out_of_distribution_is_a_warning_with_the_count(cache, caplog):
    near = make_head()
    reference = replace(near.reference, mean=near.reference.mean + 50)
    predict(near, cache=cache)
    assert "out of distribution" not in caplog.text
    predict(replace(near, reference=reference), cache=cache)
    assert "8 of 8 clips are out of distribution" in caplog.text


def test_the_mean_of_a_system_has_scipys_interval(cache):
    table = predict(make_head(), cache=cache)
    means = system_means(table).set_index("system")
    assert means["clips"].to_dict() == {"S0": 3, "S1": 2, "S2": 3}
    for system, part in table.groupby("system"):
        values = part["prediction"].dropna()
        wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        found = means.loc[system, ["prediction", "prediction_low", "prediction_high"]]
        np.testing.assert_allclose(found.astype(float), [values.mean(), *wanted], rtol=1e-12)
    alone = system_means(table[:1]).iloc[0]
    assert np.isfinite(alone["prediction"])
    assert np.isnan(alone["prediction_low"])
    assert len(system_means(table.assign(system=""))) == 0


@pytest.mark.parametrize("filler", [" ", "(", "()"])
def test_of_a_strangers_license_the_beginning_is_read(filler):
    from qamro_cache_cli.predict import _brief

    assert _brief("MIT (Ann (2024)), with all else") == "MIT, with all else"
    # Taken whole, that would take hours.
    assert len(_brief("MIT" + filler * (1 << 20))) <= 1000


def test_the_command_takes_a_runs_folder_and_sums_up_by_system(cache, tmp_path):
    from click.testing import CliRunner
    from qamro_cache_cli.predict import main

    (tmp_path / "run").mkdir()
    save_head(tmp_path / "run" / "head.safetensors", make_head())
    paths = [
        "--head",
        tmp_path / "run",
        "--cache",
        tmp_path / "emb.h5",
        "--out",
        tmp_path / "p.csv",
    ]
    done = CliRunner().invoke(main, [str(path) for path in paths])
    assert done.exit_code == 0, done.output
    assert "no prediction for c4: no samples" in done.stderr
    words = "quality by system: mean prediction; 95 % intervals over the clips of a system (t)"
    assert words in " ".join(done.stdout.split())
    table = pd.read_csv(tmp_path / "p.csv")
    for system, mean in table.groupby("system")["prediction"].mean().items():
        assert re.search(rf"{system} +\d +{mean:.1f} +\S+ to ", done.stdout)
    (tmp_path / "run" / "head.safetensors").unlink()
    failed = CliRunner().invoke(main, [str(path) for path in paths])
    assert failed.exit_code == 1
    assert "no such head file" in failed.stderr


def test_predictions_off_the_scale_are_counted_and_kept(cache, caplog):
    axis = replace(make_head().axes[0], label_mean=-1.0, label_std=1.0)
    table = predict(make_head(axes=(axis,)), cache=cache)
    off = (table["prediction"] < 0).sum()
    assert 0 < off <= 8
    assert f"quality: {off} of 8 predictions lie outside the scale 0 to 100" in caplog.text


def test_a_folder_without_audio_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("no sound")
    with pytest.raises(QamroError, match="no audio file there"):
        predict(make_head(), audio=tmp_path)
