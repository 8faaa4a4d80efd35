"""Clips as people have them: on stdin, in tars of WebDataset, in rows, in parquet files."""

import datetime
import gzip
import importlib
import io
import json
import re
import sys
import tarfile
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from audio_files import encoded, noise
from click.testing import CliRunner
from fake_encoder import FakeEncoder
from synthetic_cache import write_synthetic
from test_predict import SETTINGS, make_head

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.checks import check_dataset
from qamro_cache.datasets.labels import load_rated
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.other_tables import read_other
from qamro_cache.datasets.tables import read_table
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.evaluate import evaluate
from qamro_cache.evaluation.files import read_predictions
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.file import save_head
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import init_params
from qamro_cache.identity import identity_of
from qamro_cache.integrations.rows import write_rows
from qamro_cache.scoring.folder import clips_of_folder, clips_of_list
from qamro_cache.scoring.predict import predict

quick = partial(extract, encoder=FakeEncoder(), device="cpu")


def mel_head():
    """A head with random weights on mel, which needs no weights of its own."""
    encoder = load_encoder("mel")
    name, (width,) = next(iter(encoder.spec.features.items()))
    one = replace(
        make_head().axes[0],
        params=init_params(SETTINGS, (width,), [4, 5]),
        row_mean=torch.zeros(width),
        row_std=torch.ones(width),
    )
    rows = torch.randn(30, width, generator=torch.Generator().manual_seed(0))
    return make_head(
        feature=name,
        row=width,
        identities=(identity_of(encoder.spec),),
        axes=(one,),
        reference=reference_clips(rows),
    )


def write_tar(path, files, **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return path


def sound(seed, kind="flac", frames=9000):
    return encoded(noise(frames, 1, seed), kind)


@pytest.fixture
def shards(tmp_path):
    """Two tars as WebDataset has them, with JSON and text beside the sound."""
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        files = {}
        for k in range(3):
            key = f"sub/{shard}{k}"
            about = {"system": f"S{k}", "quality": [k + 1, 5], "rater": ["ann", "bob"]}
            files[f"{key}.flac"] = sound(10 * shard + k)
            files[f"{key}.json"] = json.dumps(about).encode()
            files[f"{key}.txt"] = f"prompt {k}\n".encode()
        files["notes.json"] = b"{}"
        write_tar(tmp_path / "shards" / f"{shard:04d}.tar", files)
    return tmp_path / "shards"


def unpacked(shards, folder):
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(folder / path.name, filter="data")
    return folder


def test_a_tars_clips_are_those_of_its_unpacked_files(shards, tmp_path):
    made = load_manifest(shards)
    assert made.clips["clip_id"].tolist()[:2] == ["0000.tar/sub/00", "0000.tar/sub/01"]
    assert made.clips["system"].tolist() == ["S0", "S1", "S2"] * 2
    assert made.clips["prompt"].tolist() == ["prompt 0", "prompt 1", "prompt 2"] * 2
    np.testing.assert_allclose(made.labels.mean[:, 0], [3, 3.5, 4] * 2)
    assert made.labels.ratings.raters == ("ann", "bob")
    assert "missing-audio" not in str(check_dataset(made))
    quick(made, tmp_path / "tar.h5")
    plain = unpacked(shards, tmp_path / "plain")
    paths = [plain / f"{name}.flac" for name in made.clips["clip_id"]]
    files = replace(made, clips=made.clips.assign(path=[str(path) for path in paths]))
    quick(files, tmp_path / "files.h5")
    ours, theirs = open_cache(tmp_path / "tar.h5"), open_cache(tmp_path / "files.h5")
    assert (ours.clips["status"] == "ok").all()
    assert ours.clips["audio_sha256"].tolist() == theirs.clips["audio_sha256"].tolist()
    torch.testing.assert_close(ours.read().windows, theirs.read().windows, rtol=0, atol=0)


def test_samples_are_webdatasets_own(shards):
    webdataset = pytest.importorskip("webdataset")
    for path in sorted(shards.glob("*.tar")):
        theirs = [
            sample["__key__"]
            for sample in webdataset.WebDataset(str(path), shardshuffle=False)
            if "flac" in sample
        ]
        ours = load_manifest(path).clips["clip_id"]
        assert [name.removeprefix(f"{path.name}/") for name in ours] == theirs


def test_two_endings_that_differ_in_case_are_no_one_sound(tmp_path):
    files = {"a.wav": sound(1, "wav"), "a.WAV": sound(2, "wav"), "b.CLS": b"1", "b.cls": b"2"}
    path = write_tar(tmp_path / "case.tar", files)
    for read in (load_manifest, clips_of_folder):
        with pytest.raises(QamroError, match=r"members 'a\.wav' and 'a\.WAV' are one"):
            read(path)
    del files["a.WAV"]
    assert clips_of_folder(write_tar(path, files)).clips["clip_id"].tolist() == ["case.tar/a"]


def test_what_a_sample_says_besides_is_left_out(tmp_path, caplog):
    about = {"quality": 3.5, "match": {"all": 1}, "meta": {"x": 1}}
    files = {"a.flac": sound(1), "a.json": json.dumps(about).encode()}
    path = write_tar(tmp_path / "a.tar", files)
    made = load_manifest(path)
    assert [axis.name for axis in made.labels.axes] == ["quality"]
    assert made.labels.mean.tolist() == [[3.5]]
    assert "are left out: match (dict), meta (dict)" in caplog.text
    for asked in ({"columns": ["quality=meta"]}, {"columns": ["system=meta"]}):
        with pytest.raises(QamroError, match="column 'meta' holds dict, which is no text, number"):
            load_manifest(path, **asked)
    with pytest.raises(QamroError, match="no column is the axis 'match'"):
        load_manifest(path, axes=["match"])
    files["a.json"] = json.dumps({"quality": 3, "system": {"x": 1}}).encode()
    with pytest.raises(QamroError, match="column 'system' holds dict"):
        load_manifest(write_tar(path, files))


def test_a_record_of_sound_in_a_tars_json_is_left_out(tmp_path, caplog):
    """As `datasets` has it; the sound itself is the sample's member, and no parquet is near."""
    said = json.dumps({"audio": {"bytes": None, "path": "x.wav"}, "quality": 3}).encode()
    path = write_tar(tmp_path / "a.tar", {"a.flac": sound(1), "a.json": said})
    made = load_manifest(path)
    assert made.clips["clip_id"].tolist() == ["a.tar/a"]
    assert [axis.name for axis in made.labels.axes] == ["quality"]
    assert "left out: audio (dict)" in caplog.text
    said = json.dumps({"prompt": {"bytes": None, "path": "x.wav"}}).encode()
    with pytest.raises(QamroError, match="column 'prompt' holds dict") as refused:
        load_manifest(write_tar(path, {"a.flac": sound(1), "a.json": said}))
    assert "parquet" not in str(refused.value)


def test_a_tar_that_cannot_be_read_among_a_folders_files_is_left_out(tmp_path, caplog):
    (tmp_path / "a.flac").write_bytes(sound(1))
    (tmp_path / "backup.tar").write_bytes(gzip.compress(b"junk"))
    write_tar(tmp_path / "good.tar", {"b.flac": sound(2)})
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        info = tarfile.TarInfo("latest")
        info.type, info.linkname = tarfile.SYMTYPE, "x"
        tar.addfile(info)
    found = clips_of_folder(tmp_path).clips["clip_id"].tolist()
    assert found == ["a.flac", "good.tar/b"]
    assert caplog.text.count("it is left out") == 2
    assert "backup.tar is no tar" in caplog.text
    with pytest.raises(QamroError, match="is no plain file"):
        clips_of_folder(tmp_path / "link.tar")


def test_a_tar_that_changes_is_extracted_again_and_one_that_does_not_is_kept(shards, tmp_path):
    path = shards / "0000.tar"
    first = quick(load_manifest(path), tmp_path / "emb.h5")
    assert (first.ok, first.stats.clips_done) == (3, 3)
    seen = open_cache(tmp_path / "emb.h5").clips
    assert set(seen["audio_mtime_ns"]) == {path.stat().st_mtime_ns}, "it would be hashed again"
    again = quick(load_manifest(path), tmp_path / "emb.h5")
    assert (again.stats.clips_reused, again.stats.clips_done) == (3, 0)
    with tarfile.open(path) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}
    other = sound(99)
    assert len(files["sub/01.flac"]) != len(other) or files["sub/01.flac"] != other
    write_tar(path, {**files, "sub/01.flac": other})
    changed = quick(load_manifest(path), tmp_path / "emb.h5")
    assert (changed.stats.clips_reused, changed.stats.clips_done) == (2, 1)


def test_a_broken_member_is_a_row_and_a_broken_tar_one_line(shards, tmp_path):
    path = write_tar(tmp_path / "a.tar", {"x.flac": sound(1)[:900], "y.wav": sound(2, "wav"),
                                          "z.flac": b""})  # fmt: skip
    quick(load_manifest(path), tmp_path / "emb.h5")
    clips = open_cache(tmp_path / "emb.h5").clips.set_index("clip_id")
    assert clips["status"].tolist() == ["unreadable", "ok", "empty"]
    assert "a.tar/x.flac" in clips["reason"].iloc[0]
    data = (shards / "0000.tar").read_bytes()
    torn = tmp_path / "torn.tar"
    for cut in (700, len(data) // 2 + 100):
        torn.write_bytes(data[:cut])
        with pytest.raises(QamroError, match=r"torn.tar is (no tar, is cut short|damaged at byte)"):
            load_manifest(torn)
    with tarfile.open(shards / "0000.tar") as tar:
        place = tar.getmembers()[4].offset
    torn.write_bytes(data[:place] + b"\x17" * 512 + data[place + 512 :])
    with pytest.raises(QamroError, match=f"torn.tar is damaged at byte {place}"):
        load_manifest(torn)
    torn.write_bytes(gzip.compress(data))
    with pytest.raises(QamroError, match="gunzip it"):
        clips_of_folder(torn)
    odd = {"a.flac": sound(1), "a.json": b"[1]"}
    with pytest.raises(QamroError, match=r"member 'a.json' is no json of a sample \(it is no rec"):
        load_manifest(write_tar(tmp_path / "odd.tar", odd))
    with pytest.raises(QamroError, match=r"'\./a\.flac' is in it twice"):
        load_manifest(write_tar(tmp_path / "two.tar", {"a.flac": b"", "./a.flac": b""}))
    with pytest.raises(QamroError, match="is no plain file"):
        load_manifest(write_tar(tmp_path / "up.tar", {"../a.flac": sound(1)}))
    with pytest.raises(QamroError, match="no sample has sound"):
        load_manifest(write_tar(tmp_path / "none.tar", {"a.txt": b""}))


def test_hundreds_of_damaged_tars_are_refused_or_read(shards, tmp_path):
    good = (shards / "0000.tar").read_bytes()
    rng = np.random.default_rng(0)
    headers = [k for k in range(0, len(good), 512) if good[k + 257 : k + 262] == b"ustar"]
    path, read, said = tmp_path / "bad.tar", 0, []
    for case in range(160):
        data = bytearray(good)
        place = int(rng.choice(headers))
        for _ in range(rng.integers(1, 4)):
            data[place + rng.integers(0, 512)] = rng.integers(0, 256)
        if case % 4 == 0:  # a size below zero, with a checksum that is right
            data[place + 124 : place + 136] = b"\xff" * 11 + bytes([rng.integers(0, 256)])
        if case % 8 == 0:
            data[place + 156] = ord("xgLKS"[case // 8 % 5])
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
        path.write_bytes(data)
        try:
            read += len(load_manifest(path).clips) > 0
        except QamroError as error:
            said.append(str(error))
    assert read > 8
    assert not [words for words in said if "\n" in words]


def test_text_that_is_none_is_refused_before_the_cache(tmp_path):
    odd = {"a.flac": sound(1), "a.json": b'{"system": "\\ud800"}'}
    with pytest.raises(QamroError, match=r"row 1: '\\ud800' in column 'system' is not UTF-8"):
        load_manifest(write_tar(tmp_path / "odd.tar", odd))


def test_predictions_of_a_tar_a_folder_and_a_list_are_equal(shards, tmp_path, monkeypatch):
    head = mel_head()
    of_tars = predict(head, audio=shards)
    assert of_tars["clip_id"].tolist()[0] == "0000.tar/sub/00"
    plain = unpacked(shards, tmp_path / "plain")
    of_files = predict(head, audio=plain)
    np.testing.assert_array_equal(of_tars["prediction"], of_files["prediction"])
    listed = "\n".join([f"plain/{name}" for name in of_files["clip_id"]] + ["", "plain/no.wav"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    of_list = predict(head, audio="-")
    assert of_list["clip_id"].tolist() == listed.replace("\n\n", "\n").splitlines()
    np.testing.assert_array_equal(of_list["prediction"][:-1], of_files["prediction"])
    assert "there is no file" in of_list["reason"].iloc[-1]


def test_a_list_of_names():
    found = clips_of_list(b"a b.wav\r\n\n/x/\xff.wav\na b.wav\n").clips["clip_id"].tolist()
    assert found == ["a b.wav", "/x/\udcff.wav"]
    # As editors of Windows save it.
    assert clips_of_list(b"\xef\xbb\xbfa.wav\r\nb.wav").clips["clip_id"].tolist() == [
        "a.wav",
        "b.wav",
    ]
    assert clips_of_list(b"a\nb.wav\0c.wav\0").clips["clip_id"].tolist() == ["a\nb.wav", "c.wav"]
    for nothing in (b"", b"\n \n"):
        with pytest.raises(QamroError, match="stdin names no file"):
            clips_of_list(nothing)


def test_the_command_on_stdin_json_lines_and_a_summary(tmp_path, monkeypatch):
    from qamro_cache_cli.predict import main

    save_head(tmp_path / "head.safetensors", mel_head())
    for seed in range(3):
        (tmp_path / f"{seed}.flac").write_bytes(sound(seed))
    monkeypatch.chdir(tmp_path)
    listed = "0.flac\n1.flac\n2.flac\nnone.flac\n"
    head = ["--head", "head.safetensors", "--audio", "-"]
    lines = CliRunner().invoke(main, [*head, "--json"], input=listed)
    assert lines.exit_code == 0, lines.output
    rows = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [row["clip_id"] for row in rows] == listed.split()
    assert (rows[3]["prediction"], "no prediction for none.flac" in lines.stderr) == (None, True)
    both = CliRunner().invoke(main, [*head, "--json", "--summary"], input=listed)
    found = json.loads(both.stdout)["quality"]
    known = [row["prediction"] for row in rows[:3]]
    assert (found["count"], found["failed"]) == (3, 1)
    expected = [np.mean(known), *np.percentile(known, [5, 95])]
    assert [found["mean"], found["p5"], found["p95"]] == pytest.approx(expected)
    shown = CliRunner().invoke(main, [*head, "--summary"], input=listed)
    assert "p95" in shown.stdout, shown.output
    empty = CliRunner().invoke(main, [*head, "--json"], input="")
    assert (empty.exit_code, empty.stderr.count("\n"), empty.stdout) == (1, 1, "")
    neither = CliRunner().invoke(main, head, input=listed)
    assert (neither.exit_code, "--json or --summary" in neither.stderr) == (2, True)


class Decoder:
    """As torchcodec's decoder in ``datasets``: no mapping, and gives the sound when asked."""

    def __init__(self, values):
        self.values = values

    def get_all_samples(self):
        if self.values is None:
            raise RuntimeError("Could not\ndecode")
        return SimpleNamespace(data=torch.from_numpy(self.values), sample_rate=16000)


def test_rows_of_datasets_become_files_and_a_manifest(tmp_path, caplog):
    wave = noise(8000, 1, 3)[:, 0]
    (tmp_path / "mine.wav").write_bytes(sound(4, "wav"))
    sounds = [
        {"bytes": sound(1), "path": "one.flac"},
        {"bytes": sound(2, "mp3"), "path": None},
        {"bytes": None, "path": str(tmp_path / "mine.wav")},
        {"array": wave.astype(np.float64), "sampling_rate": 16000, "path": "x.wav"},
        Decoder(np.stack([wave, wave])),
        {"array": (wave * 32768).round().astype(np.int16), "sampling_rate": 16000},
        Decoder(None),
        {"bytes": b"no sound", "path": "a.wav"},
        str(tmp_path / "mine.wav"),
        {"array": [0, 300, -300] * 800, "sampling_rate": 16000},  # in whose units, nobody knows
    ]
    rows = (
        {"sound": one, "system": "a", "mos": np.float32(k / 2), "ratings": {"x": 1}}
        for k, one in enumerate(sounds)
    )
    manifest = write_rows(rows, tmp_path / "made", audio="sound")
    assert "row 6: its sound cannot be decoded (Could not decode)" in caplog.text
    made = load_manifest(manifest)
    assert "row 9: its sound cannot be decoded (samples are floats from -1 to 1" in caplog.text
    assert made.labels.mean[:, 0].tolist() == [k / 2 for k in range(10)]
    quick(made, tmp_path / "emb.h5")
    clips = open_cache(tmp_path / "emb.h5").clips
    expected = ["ok"] * 6 + ["missing", "unreadable", "ok", "missing"]
    assert clips["status"].tolist() == expected, clips["reason"].tolist()
    back, rate = soundfile.read(tmp_path / "made" / "000003.wav", dtype="float32")
    assert rate == 16000
    np.testing.assert_array_equal(back, wave)
    assert (tmp_path / "made" / "000000.flac").read_bytes() == sounds[0]["bytes"]
    assert soundfile.read(tmp_path / "made" / "000004.wav")[0].shape == (8000, 2)
    np.testing.assert_allclose(soundfile.read(tmp_path / "made" / "000005.wav")[0], wave, atol=2e-5)
    write_rows([{"audio": sounds[0]}], tmp_path / "made")
    with pytest.raises(QamroError, match=r"row 0 has no column 'audio' \(columns: sound\)"):
        write_rows([{"sound": sounds[0]}], tmp_path / "other")
    with pytest.raises(QamroError, match="there are no rows"):
        write_rows([], tmp_path / "other")


def test_rows_replace_no_file_that_they_did_not_write(tmp_path):
    def write(folder, content=b"new"):
        return write_rows([{"audio": {"bytes": content, "path": "a.wav"}}], tmp_path / folder)

    (tmp_path / "table").mkdir()
    # As all manifests of somebody's own, of paths in full.
    (tmp_path / "table" / "rows.csv").write_text("clip_id,path,mos\na,/data/a.wav,3\n")
    with pytest.raises(QamroError, match=r"rows\.csv is there already.*is kept"):
        write("table")
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "000000.wav").write_bytes(b"mine")
    with pytest.raises(QamroError, match=r"000000\.wav is there already.*is kept"):
        write("sound")
    assert (tmp_path / "sound" / "000000.wav").read_bytes() == b"mine"
    assert len(list(tmp_path.glob("*/*"))) == 2
    write("made", b"old")
    manifest = write("made")
    assert (tmp_path / "made" / "000000.wav").read_bytes() == b"new"
    manifest.write_text(manifest.read_text().replace("path", "path,mos"))
    with pytest.raises(QamroError, match="is no manifest as write_rows left it, and is kept"):
        write("made")


def test_parquet_is_read_as_its_csv_is(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    from pyarrow import table as arrow

    table = {
        "clip_id": ["a", "b", "c"],
        "path": ["a.wav", "b.wav", "c.wav"],
        "system": ["x", None, "y"],
        "quality": [[3, 4], [5], None],
        "match": [1.5, None, 3.25],
    }
    parquet.write_table(arrow(table), tmp_path / "clips.parquet")
    cells = {"quality": ['"[3, 4]"', "[5]", ""], "match": ["1.5", "", "3.25"]}
    lines = ["clip_id,path,system,quality,match"]
    for k in range(3):
        row = [table["clip_id"][k], table["path"][k], table["system"][k] or "", cells["quality"][k],
               cells["match"][k]]  # fmt: skip
        lines.append(",".join(row))
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    ours, theirs = (load_manifest(tmp_path / f"clips.{end}") for end in ("parquet", "csv"))
    pd.testing.assert_frame_equal(ours.clips, theirs.clips)
    np.testing.assert_array_equal(ours.labels.mean, theirs.labels.mean)
    np.testing.assert_array_equal(ours.labels.count, theirs.labels.count)
    table |= {"day": [datetime.datetime(2020, 1, 1)] * 3}
    table["match"] = [None if one is None else Decimal(str(one)) for one in table["match"]]
    parquet.write_table(arrow(table), tmp_path / "more.parquet")
    more = load_manifest(tmp_path / "more.parquet")
    np.testing.assert_array_equal(more.labels.mean, theirs.labels.mean)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(QamroError, match=r"bad\.parquet is no parquet file that can") as wrong:
        load_manifest(tmp_path / "bad.parquet")
    assert "\n" not in str(wrong.value)


def test_predictions_and_baselines_may_be_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    from pyarrow import table as arrow

    ids, rng = list(range(20)), np.random.default_rng(0)
    ones, others = rng.uniform(1, 5, (2, 20)).tolist()
    tables = {
        "ours": {"clip_id": ids, "axis": ["mos"] * 20, "prediction": ones, "ood": [False] * 20},
        "pesq": {"clip_id": ids, "pesq": others},
    }
    for name, table in tables.items():
        parquet.write_table(arrow(table), tmp_path / f"{name}.parquet")
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,mos\n" + "".join(f"{k},{1 + k % 5}\n" for k in ids))
    found = [
        evaluate(tmp_path / f"ours.{end}", labels, baseline=[tmp_path / f"pesq.{end}"])
        for end in ("csv", "parquet")
    ]
    assert found[0]["axes"]["mos"]["metrics"] == found[1]["axes"]["mos"]["metrics"]
    one, other = (
        found[k]["axes"]["mos"]["baselines"][f"pesq.{e}"] for k, e in enumerate(("csv", "parquet"))
    )
    assert one["metrics"] == other["metrics"]
    # Where none is read, the ending is not said to be missing.
    with pytest.raises(QamroError, match=r"ours\.parquet: is a parquet file, no table"):
        read_table(tmp_path / "ours.parquet")


def test_a_parquet_with_sound_in_it_is_a_line_that_can_be_done(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    from pyarrow import table as arrow

    monkeypatch.chdir(tmp_path)
    rows = {"clip_id": ["a", "b"], "sound": [], "quality": [3.5, None], "system": [None, "s"]}
    for k in range(2):
        rows["sound"].append({"bytes": sound(k, "wav"), "path": f"{k}.wav"})
    parquet.write_table(arrow(rows), "odd.parquet")
    with pytest.raises(QamroError, match="row 1: column 'sound' holds sound and not a f") as told:
        predict("codec-quality", manifest="odd.parquet")
    call = re.search(r"write_rows\(.* of qamro", str(told.value))[0].removesuffix(" of qamro")
    names = {"write_rows": write_rows, "pyarrow": importlib.import_module("pyarrow")}
    made = load_manifest(eval(call, names | {"FOLDER": tmp_path / "made"}))
    assert made.clips["system"].tolist() == ["", "s"]
    np.testing.assert_array_equal(made.labels.mean[:, 0], [3.5, np.nan])
    assert [Path(path).read_bytes() for path in made.clips["path"]] == [
        one["bytes"] for one in rows["sound"]
    ]


def test_a_parquet_that_expands_beyond_memory_is_one_line(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is missing (extra parquet)")
    from pyarrow import table as arrow

    path = tmp_path / "a.parquet"
    rows = {"clip_id": list(map(str, range(3000))), "path": ["x" * 2000] * 3000}
    parquet.write_table(arrow(rows), path)
    assert path.stat().st_size < 100_000, "a text is there once"
    assert len(read_other(path, bool)) == 3000
    for free, what in ((1_000_000, "rows of .*a.parquet"), (1_000, "6,000 values of .*a.parquet")):
        monkeypatch.setattr("qamro_cache.memory.free_memory", lambda free=free: free)
        with pytest.raises(QamroError, match=f"{what} would take about .* are free; write the col"):
            read_other(path, bool)


def test_a_member_that_is_a_hole_beyond_memory_is_a_row(tmp_path):
    """A tar with 4 TB of nothing in it takes some blocks of the disk."""
    path, size = tmp_path / "a.tar", 4 << 40
    whole = tarfile.TarInfo("x.wav")
    whole.size = len(sound(2, "wav"))
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(whole, io.BytesIO(sound(2, "wav")))
    hole = tarfile.TarInfo("y.wav")
    hole.size = size
    with path.open("r+b") as file:
        place = 512 + -(-whole.size // 512) * 512
        file.seek(place)
        file.write(hole.tobuf(tarfile.GNU_FORMAT))
        file.truncate(place + 512 + size + 1024)
    quick(load_manifest(path), tmp_path / "emb.h5")
    clips = open_cache(tmp_path / "emb.h5").clips.set_index("clip_id")
    assert clips["status"].tolist() == ["ok", "unreadable"]
    assert "GB of memory" in clips["reason"].iloc[1]


def test_without_pyarrow_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(QamroError, match=r"not to be had \(.*\); run: .*'pyarrow<23'"):
        load_manifest(tmp_path / "a.parquet")


def test_a_cache_in_a_tables_place_is_called_one(tmp_path):
    cache = write_synthetic(tmp_path / "emb.h5")
    for read in (load_manifest, load_rated, read_predictions):
        with pytest.raises(QamroError, match=r"emb\.h5: is a cache, no table"):
            read(cache)
