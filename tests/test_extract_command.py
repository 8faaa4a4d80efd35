"""qamro-extract and qamro-cache, as processes and through click."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from extraction_support import digests
from fake_encoder import INFO
from qamro_cache_cli.cache import main as cache_command
from qamro_cache_cli.extract import main as extract_command

from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import registry


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.list_encoders()
    monkeypatch.setattr(registry, "list_encoders", lambda: [*known, INFO])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(extract_command, [str(a) for a in arguments])


def cache(*arguments: object) -> Result:
    return CliRunner().invoke(cache_command, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 1,000 short clips, ten of them bad in different ways."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((1000, 4800)) * 0.1).astype(np.float32)
    lines = ["clip_id,path,system,quality"]
    for index, audio in enumerate(noise):
        soundfile.write(folder / f"{index}.wav", audio, 48000)
        lines.append(f"c{index},{index}.wav,S{index % 7},{1 + index % 5}")
    (folder / "5.wav").unlink()
    (folder / "105.wav").write_text("plain text, not sound")
    (folder / "205.wav").write_bytes(b"")
    soundfile.write(folder / "305.wav", noise[0, :0], 48000)
    soundfile.write(folder / "405.wav", noise[0, :50], 48000)
    noise[:2, 7] = np.nan, np.inf
    soundfile.write(folder / "505.wav", noise[0], 48000, subtype="FLOAT")
    soundfile.write(folder / "605.wav", noise[1], 48000, subtype="FLOAT")
    soundfile.write(folder / "x.flac", noise[2], 48000)
    (folder / "705.wav").write_bytes((folder / "x.flac").read_bytes()[:4000])
    (folder / "805.wav").unlink()
    (folder / "805.wav").mkdir()
    (folder / "905.wav").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_thousand_files_with_ten_bad_ones(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "emb.h5"
    arguments = ("--manifest", folder / "clips.csv", "--encoder", "fake", "--out", out)
    strict = run(*arguments)
    assert strict.exit_code == 3, strict.output
    assert "10 clips failed, more than --max-failures 0" in strict.stderr
    assert strict.stderr.count("failed: c") == 10
    found = open_cache(out).clips
    assert (found["status"] == "ok").sum() == 990
    bad = found[found["status"] != "ok"]
    assert bad["clip_id"].tolist() == [f"c{i}05" if i else "c5" for i in range(10)]
    assert (bad["reason"] != "").all()
    assert bad["status"].nunique() == 5
    lenient = run(*arguments, "--max-failures", "10", "--json")
    assert lenient.exit_code == 0, lenient.output
    record = json.loads(lenient.stdout)
    assert (record["ok"], record["failures"], record["extracted"]) == (990, 10, 0)
    assert {row["clip_id"] for row in record["failed_clips"]} == set(bad["clip_id"])


def test_shards_merge_to_what_one_run_makes(folder: Path, tmp_path: Path) -> None:
    arguments = ("--manifest", folder / "clips.csv", "--encoder", "fake", "--max-failures", 10)
    assert run(*arguments, "--out", tmp_path / "one.h5").exit_code == 0
    for index in (2, 3, 1):
        result = run(*arguments, "--out", tmp_path / "emb.h5", "--shard", f"{index}/3")
        assert result.exit_code == 0, result.output
    shards = sorted(tmp_path.glob("emb-*-of-*.h5"))
    assert [path.name for path in shards] == [f"emb-0000{i}-of-00003.h5" for i in (1, 2, 3)]
    merged = cache("merge", *shards[::-1], "--out", tmp_path / "emb.h5")
    assert merged.exit_code == 0, merged.output
    assert digests(tmp_path / "emb.h5") == digests(tmp_path / "one.h5")
    partial = cache("merge", shards[0], shards[2], "--out", tmp_path / "partial.h5")
    assert partial.exit_code == 0
    assert "1 are not among these files: 2" in partial.stderr
    verified = cache("verify", tmp_path / "emb.h5", *shards)
    assert verified.exit_code == 0
    assert "good: 1000 clips (10 failed)" in verified.stdout


def test_info_shows_it_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "emb.h5"
    run("--manifest", folder / "clips.csv", "--encoder", "fake", "--out", out)
    record = json.loads(cache("info", out, "--json").stdout)
    assert record["clips"] == 1000
    assert record["status"]["ok"] == 990
    assert record["identity"]["name"] == "fake"
    assert record["axes"]["quality"]["rated_clips"] == 1000
    assert record["synthetic"] is False
    shown = cache("info", out).stdout
    assert record["identity_sha256"] in shown.split()
    assert f"soundfile {soundfile.__version__}" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--dataset NAME or --manifest"),
        (("--dataset", "demo", "--shard", "0/3", "--out", "x.h5"), 2, "i from 1 to n"),
        (("--manifest", "clips.csv"), 2, "--out FILE and --encoder"),
        (("--dataset", "nowhere", "--encoder", "fake", "--out", "x.h5"), 2, "no dataset"),
        (("--manifest", "gone.csv", "--encoder", "fake", "--out", "x.h5"), 1, "gone.csv"),
        (("--manifest", "{}/clips.csv", "--encoder", "none", "--out", "x.h5"), 2, "no encoder"),
        (("--manifest", "{}/clips.csv", "--encoder", "fake", "--out", "/dev/null/x.h5"), 1, "/dev"),
        (("--manifest", "{}/odd.csv", "--encoder", "fake", "--out", "x.h5"), 1, "odd.csv"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (folder / "odd.csv").write_text("name,where\na,b\n")
    result = run(*(argument.format(folder) for argument in arguments))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_dry_run_needs_no_encoder_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = run("--manifest", folder / "clips.csv", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == 1000
    assert run("--manifest", folder / "clips.csv", "--dry-run").exit_code == 0
    assert sorted(folder.iterdir()) == before


def test_ids_never_become_paths_or_terminal_escapes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(48000), 48000)
    (tmp_path / "b.wav").write_text("\x1b[31mred\x1b[0m")
    (tmp_path / "clips.csv").write_text(
        "clip_id,path\n../../up,a.wav\n/etc/passwd,a.wav\n\x1b[2Jgone\x07,b.wav\n"
    )
    work = tmp_path / "deep" / "er"
    work.mkdir(parents=True)
    out = work / "emb.h5"
    result = run("--manifest", tmp_path / "clips.csv", "--encoder", "fake", "--out", out)
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    if result.exit_code == 3:
        assert open_cache(out).clips["clip_id"][0] == "../../up"
        assert [path.name for path in work.iterdir()] == ["emb.h5"]
        for command in ("info", "verify"):
            assert "\x1b" not in cache(command, out).output
    else:
        assert result.exit_code == 1


def test_list_encoders_names_what_is_missing() -> None:
    result = run("--list-encoders", "--json")
    assert {"mel", "distillmos"} <= {row["name"] for row in json.loads(result.stdout)}
    assert "mel" in run("--list-encoders").stdout


def test_help_loads_nothing_heavy() -> None:
    for module in ("extract", "cache"):
        code = f"import sys; from qamro_cache_cli.{module} import main; main(['--help'])"
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True
        )
        assert done.returncode == 0
        assert " click\n" in done.stderr
        for name in ("torch", "numpy", "pandas", "h5py"):
            assert f" {name}\n" not in done.stderr
