"""merge, verify, relabel and export, against the arrays they were given."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner, Result
from extraction_support import digests, make_clips
from fake_encoder import INFO, FakeEncoder
from qamro_cache_cli.cache import main as cache_command
from safetensors.numpy import load_file
from test_cache_files import content, header

from qamro_cache.cache import assemble
from qamro_cache.cache.checks import refuse_mixture
from qamro_cache.cache.container import open_container
from qamro_cache.cache.content import CacheContent, concatenate
from qamro_cache.cache.edit import export_cache, relabel_cache
from qamro_cache.cache.merge import merge_caches
from qamro_cache.cache.reader import open_cache
from qamro_cache.cache.verify import verify_cache
from qamro_cache.cache.writer import write_cache
from qamro_cache.encoders import registry
from qamro_cache.errors import QamroError
from qamro_cache.extraction.deep import encode_again, verify_deep
from qamro_cache.extraction.extract import extract


def test_merge_is_concatenation(tmp_path: Path) -> None:
    parts = [content(6, 0, "a"), content(4, 1, "b"), content(8, 2, "c")]
    paths = [tmp_path / f"{index}.h5" for index in range(3)]
    for path, part in zip(paths, parts, strict=True):
        write_cache(path, part, replace(header(), provenance={}))
    assert merge_caches(paths, tmp_path / "merged.h5") == 18
    write_cache(tmp_path / "plain.h5", concatenate(parts), header())
    assert digests(tmp_path / "merged.h5") == digests(tmp_path / "plain.h5")


def test_merge_keeps_one_of_equal_clips_and_refuses_different_ones(tmp_path: Path) -> None:
    plain = replace(header(), provenance={})
    write_cache(tmp_path / "a.h5", content(), plain)
    write_cache(tmp_path / "same.h5", content(), plain)
    assert merge_caches([tmp_path / "a.h5", tmp_path / "same.h5"], tmp_path / "m.h5") == 6
    assert digests(tmp_path / "m.h5") == digests(tmp_path / "a.h5")
    good = content()
    changes = {
        "feature layers": {"features": {n: v + 1.0 for n, v in good.features.items()}},
        "audio_sha256": {"clips": good.clips.assign(audio_sha256="f" * 64)},
        "ratings": {"labels": replace(good.labels, mean=good.labels.mean + 1)},
        "system": {"clips": good.clips.assign(system="other")},
    }
    for name, change in changes.items():
        write_cache(tmp_path / "b.h5", replace(good, **change), plain)  # type: ignore[arg-type]
        with pytest.raises(QamroError, match=f"with another .*{name}"):
            merge_caches([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "m2.h5")
    assert not (tmp_path / "m2.h5").exists()


def test_merge_refuses_mixed_identities_and_axes(tmp_path: Path) -> None:
    write_cache(tmp_path / "a.h5", content(prefix="a"), header())
    write_cache(tmp_path / "b.h5", content(prefix="b"), header(version="2"))
    with pytest.raises(QamroError, match="version: '1' here, '2' there"):
        merge_caches([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "m.h5")
    other = content(prefix="c")
    labels = replace(other.labels, axes=other.labels.axes[::-1])
    write_cache(tmp_path / "c.h5", replace(other, labels=labels), header())
    with pytest.raises(QamroError, match="different axes"):
        merge_caches([tmp_path / "a.h5", tmp_path / "c.h5"], tmp_path / "m.h5")


def test_merge_and_relabel_replace_no_file_of_which_something_would_be_lost(
    tmp_path: Path,
) -> None:
    for name, prefix in (("a", "a"), ("b", "b"), ("ab", "a")):
        write_cache(tmp_path / f"{name}.h5", content(prefix=prefix), header())
    write_cache(tmp_path / "other.h5", content(prefix="a"), header(version="2"))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "labels.csv").write_text("clip_id,loudness\na-0/ü,1\n")
    for out, words in (
        ("b.h5", "holds 6 clips that would be lost"),
        ("other.h5", "version: '1' here, '2' there"),
        ("notes.txt", "is no cache"),
    ):
        before = (tmp_path / out).read_bytes()
        with pytest.raises(QamroError, match=words):
            merge_caches([tmp_path / "a.h5"], tmp_path / out)
        with pytest.raises(QamroError, match=words):
            relabel_cache(tmp_path / "a.h5", tmp_path / "labels.csv", tmp_path / out)
        assert (tmp_path / out).read_bytes() == before
    with pytest.raises(QamroError, match="there is no cache"):
        merge_caches([tmp_path / "none.h5"], tmp_path / "m.h5")
    # The same again, and with more clips.
    both = [tmp_path / "a.h5", tmp_path / "b.h5"]
    assert merge_caches(both, tmp_path / "ab.h5") == 12
    assert merge_caches(both, tmp_path / "ab.h5") == 12


def test_verify_finds_what_is_not_finite(tmp_path: Path) -> None:
    good = content()
    write_cache(tmp_path / "a.h5", good, header())
    assert verify_cache(tmp_path / "a.h5")["windows"] == len(good.weights)
    good.features["layers"][3, 1, 2] = np.nan
    write_cache(tmp_path / "b.h5", good, header())
    with pytest.raises(QamroError, match="/features/layers holds NaN"):
        verify_cache(tmp_path / "b.h5")


def test_relabel_touches_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    before = digests(path)
    rows = [f"clip-{i}/ü,{10 * i},T{i % 2}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("clip_id,loudness,system\n" + "\n".join(rows) + "\n")
    assert relabel_cache(path, tmp_path / "labels.csv", tmp_path / "b.h5") == 6
    assert digests(path) == before
    assert relabel_cache(path, tmp_path / "labels.csv") == 6
    after = digests(path)
    assert after == digests(tmp_path / "b.h5")
    assert {name for name in before if before[name] != after.get(name)} >= {"labels/mean"}
    for name in before:
        if not name.startswith("labels/"):
            assert after[name] == before[name]
    cache = open_cache(path)
    assert [axis.name for axis in cache.labels.axes] == ["loudness"]
    assert cache.labels.mean[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert cache.clips["system"].tolist() == ["T0", "T1"] * 3
    kept = ["peak", "samples_sha256", "reference", "source"]
    pd.testing.assert_frame_equal(cache.clips[kept], content().clips[kept])
    assert cache.licenses == header().licenses
    assert [axis.guessed for axis in cache.labels.axes] == [True]


def test_merge_joins_licenses_and_marks(tmp_path: Path) -> None:
    for name, data in (("a", "CC BY 4.0"), ("b", "CC0"), ("c", "CC BY 4.0")):
        part = content(prefix=name)
        axes = tuple(replace(axis, guessed=name == "b") for axis in part.labels.axes)
        write_cache(
            tmp_path / f"{name}.h5",
            replace(part, labels=replace(part.labels, axes=axes)),
            replace(header(), licenses={"data": data}, provenance={}),
        )
    merge_caches([tmp_path / f"{name}.h5" for name in "abc"], tmp_path / "m.h5")
    cache = open_cache(tmp_path / "m.h5")
    assert cache.licenses == {"data": "CC BY 4.0; CC0"}
    assert [axis.guessed for axis in cache.labels.axes] == [True, True]
    assert open_cache([tmp_path / "a.h5", tmp_path / "b.h5"]).licenses == cache.licenses


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_export_is_what_read_gives(tmp_path: Path, form: str) -> None:
    written = content()
    write_cache(tmp_path / "a.h5", written, header())
    names = export_cache([tmp_path / "a.h5"], tmp_path / "out", form)
    assert {"clips.csv", "labels.csv", "ratings.csv", "manifest.json"} < set(names)
    folder = tmp_path / "out"
    if form == "safetensors":
        arrays = load_file(folder / "features.safetensors")
    else:
        arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    for name, values in written.features.items():
        np.testing.assert_array_equal(arrays[f"features.{name}"], values)
    np.testing.assert_array_equal(arrays["text_features.text"], written.text_features["text"])
    np.testing.assert_array_equal(arrays["windows.offsets"], written.offsets)
    prints = written.fingerprints
    assert prints is not None
    np.testing.assert_array_equal(arrays["fingerprints.values"], prints.values)
    np.testing.assert_array_equal(arrays["fingerprints.offsets"], prints.offsets)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["arrays"]) == set(arrays)
    assert manifest["synthetic"] is True
    assert manifest["licenses"] == {"data": "CC BY 4.0", "encoder": "MIT"}
    clips = pd.read_csv(folder / "clips.csv", keep_default_na=False)
    assert clips["clip_id"].tolist() == written.clips["clip_id"].tolist()
    assert clips["reference"].tolist() == written.clips["reference"].tolist()
    scores = pd.read_csv(folder / "labels.csv")
    np.testing.assert_allclose(scores["mean"], written.labels.mean.reshape(-1))
    assert scores["guessed"].tolist() == [False, True] * 6
    with pytest.raises(QamroError, match="exists"):
        export_cache([tmp_path / "a.h5"], folder)


@pytest.mark.parametrize("form", ["safetensors", "npy"])
def test_an_export_that_failed_can_be_repeated(tmp_path: Path, form: str) -> None:
    """With a limit on the size of files, in a process of its own, so that the disk is full."""
    write_cache(tmp_path / "a.h5", content(400), header())
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from qamro_cache.cache.edit import export_cache\n"
        "from qamro_cache.errors import QamroError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import torch, safetensors.numpy\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try:\n    export_cache([Path(sys.argv[1])], Path(sys.argv[2]), sys.argv[3])\n"
        "except QamroError as error:\n    print(error)\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, tmp_path / "a.h5", out, form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written: File too large; mend that" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    # What a killed one leaves goes with the next.
    (tmp_path / ".out.0123abcd.tmp").mkdir()
    (tmp_path / ".out.0123abcd.tmp" / "clips.csv").write_text("half")
    export_cache([tmp_path / "a.h5"], out, form)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "out"]


def test_a_cache_that_is_replaced_while_it_is_relabeled_keeps_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    labels = [tmp_path / f"{name}.csv" for name in ("first", "second")]
    for k, file in enumerate(labels):
        file.write_text("clip_id,loudness\n" + "".join(f"clip-{i}/ü,{k + i}\n" for i in range(6)))
    check = assemble.check_file

    def meanwhile(new: Path) -> object:
        monkeypatch.setattr(assemble, "check_file", check)
        relabel_cache(path, labels[1])
        return check(new)

    monkeypatch.setattr(assemble, "check_file", meanwhile)
    with pytest.raises(QamroError, match=r"was replaced since it was opened.*same command again"):
        relabel_cache(path, labels[0])
    assert open_cache(path).labels.mean[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert [file.name for file in tmp_path.glob("*a.h5*")] == ["a.h5"]


def test_temporary_files_of_killed_merges_and_relabels_go(tmp_path: Path) -> None:
    write_cache(tmp_path / "a.h5", content(), header())
    (tmp_path / "labels.csv").write_text("clip_id,loudness\nclip-0/ü,1\n")
    for run in (
        lambda: merge_caches([tmp_path / "a.h5"], tmp_path / "m.h5"),
        lambda: relabel_cache(tmp_path / "a.h5", tmp_path / "labels.csv", tmp_path / "m.h5"),
    ):
        (tmp_path / ".m.h5.0123abcd.tmp").write_text("half")
        run()
        assert not (tmp_path / ".m.h5.0123abcd.tmp").exists()


def cache(*arguments: object) -> Result:
    return CliRunner().invoke(cache_command, [str(a) for a in arguments])


def test_deep_verification_encodes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noises = make_clips(tmp_path / "sounds", 12)
    out = tmp_path / "emb.h5"
    extract(noises, out, FakeEncoder())
    known = registry.list_encoders()
    monkeypatch.setattr(registry, "list_encoders", lambda: [*known, INFO])
    result = cache("verify", out, "--deep", "--sample", 100)
    assert result.exit_code == 0, result.output
    assert "12 clips encoded again" in result.stdout
    for arguments, word in ((("--device", "foo"), "device 'foo'"), (("--seed", "-1"), "--seed")):
        refused = cache("verify", out, "--deep", *arguments)
        assert word in refused.stderr.splitlines()[-1]
        assert isinstance(refused.exception, SystemExit)
    assert verify_deep(str(out), sample=100)["clips"] == 12
    assert verify_deep(out, sample=3, seed=7)["clips"] == 3
    with pytest.raises(QamroError, match="no option 'devise'; did you mean 'device'"):
        verify_deep(out, devise="cpu")
    # A cache that holds something else, with right checksums: only --deep can tell.
    container = open_container(out)
    assert container.load("features/layers").shape[0] > 12
    old = open_cache(out)
    features = {name: old.read(name).windows.numpy().copy() for name in old.features}
    features["layers"][0, 0, 0] *= 1.01
    wrong = tmp_path / "wrong.h5"
    part = old._parts[0]
    text = {"text": old.read_text().embeddings.numpy()}
    windows = (part.offsets, part.weights, part.starts)
    made = CacheContent(old.clips, old.labels, *windows, features, part.prompts, text)
    write_cache(wrong, made, header_of(old))
    assert cache("verify", wrong).exit_code == 0
    result = cache("verify", wrong, "--deep", "--sample", 100)
    assert result.exit_code == 1
    assert "feature layers differs by" in result.stderr
    with pytest.raises(QamroError, match="version"):
        encode_again(out, FakeEncoder(replace(FakeEncoder().spec, version="9")))
    audio, rate = soundfile.read(noises.clips["path"][4])
    soundfile.write(noises.clips["path"][4], -audio, rate)
    result = cache("verify", out, "--deep", "--sample", 100)
    assert "is not the audio that the cache was made of" in result.stderr


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:99"])
def test_a_deep_verification_on_no_device_is_one_line(tmp_path: Path, device: str) -> None:
    write_cache(tmp_path / "a.h5", content(), header())
    result = cache("verify", tmp_path / "a.h5", "--deep", "--device", device)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"device '{device}' cannot be used here" in result.stderr
    with pytest.raises(QamroError, match="cannot be used here"):
        verify_deep(tmp_path / "a.h5", device=device)


def header_of(cache: object) -> object:
    from qamro_cache.cache.content import Header

    return Header(cache.identity, cache.dataset, cache.synthetic, {})  # type: ignore[attr-defined]


def test_a_refused_mixture_names_the_encoder_first_and_not_everything() -> None:
    ours = {"audio": {"hop": 1, "window": 1}, "dtype": "a", "name": "mel", "version": "1"}
    theirs = {"audio": {"hop": 2, "window": 2}, "dtype": "b", "name": "clap", "version": "2"}
    with pytest.raises(QamroError, match=r"\(name: 'mel' here, 'clap' there; .* and 2 more\)$"):
        refuse_mixture(Path("a.h5"), ours, Path("b.h5"), theirs)
