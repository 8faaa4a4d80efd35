"""What one extraction may be asked to do: an option has its domain, in Python as in a shell."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from extraction_support import digests
from fake_encoder import FakeEncoder
from qamro_cache_cli.extract import main as command

from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.errors import OptionError, QamroError
from qamro_cache.extraction.extract import extract
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.settings import from_options, settings_of


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(5):
        soundfile.write(tmp_path / f"{index}.wav", 0.1 * rng.standard_normal(16000), 16000)
    lines = [f"c{index},{index}.wav" for index in range(6)]  # the last is not there
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(["clip_id,path", *lines]) + "\n")
    return path


def test_python_and_the_command_make_the_same_cache(manifest: Path, tmp_path: Path) -> None:
    options = {"shard": "1/2", "batch_size": 2, "dtype": "float16", "max_failures": 1}
    summary = extract(manifest, tmp_path / "a.h5", "mel", **options)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    out = ["--out", str(tmp_path / "b.h5")]
    result = CliRunner().invoke(
        command, ["--manifest", str(manifest), "--encoder", "mel", *out, *flags]
    )
    assert result.exit_code == 0, result.output
    assert summary.out == tmp_path / "a-00001-of-00002.h5"
    assert digests(summary.out) == digests(tmp_path / "b-00001-of-00002.h5")
    assert not summary.too_many_failures
    assert extract(str(manifest), tmp_path / "c.h5", "mel").too_many_failures


def test_a_manifest_is_a_manifest_whatever_it_is_called(manifest: Path, tmp_path: Path) -> None:
    listed = manifest.rename(tmp_path / "clips.txt")
    extract(manifest=str(listed), out=tmp_path / "a.h5", encoder="mel")
    out = ["--out", str(tmp_path / "b.h5"), "--max-failures", "1"]
    result = CliRunner().invoke(command, ["--manifest", str(listed), "--encoder", "mel", *out])
    assert result.exit_code == 0, result.output
    assert digests(tmp_path / "a.h5") == digests(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"out": "x.h5", "encoder": "mel"}, "either --dataset NAME or --manifest FILE"),
        ({"dataset": "demo", "manifest": "clips.csv", "out": "x.h5"}, "either --dataset NAME or"),
        ({"dataset": "demo"}, "--out FILE and --encoder NAME"),
        ({"manifest": "clips.csv", "out": "x.h5"}, "--out FILE and --encoder NAME"),
    ],
)
def test_what_is_missing_is_wrong_usage(asked: dict[str, str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        extract(**asked)  # type: ignore[arg-type]
    flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
    result = CliRunner().invoke(command, flags)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_every_declared_option_is_one_of_the_command() -> None:
    names = {parameter.name for parameter in command.params}
    assert set(settings_of(ExtractRequest)) <= names
    assert set(settings_of(EncoderOptions)) < set(settings_of(ExtractRequest))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 10**9}, r"batch_size must be at most 4096 \(so many windows"),
        ({"batch_size": -1}, "at least 0"),
        ({"batch_size": True}, "must be a whole number"),
        ({"workers": 257}, r"at most 256 \(each may hold"),
        ({"ray": "local", "num_workers": 0}, "at least 1"),
        ({"ray": "local", "num_workers": 1025}, "at most 1024"),
        ({"ray": "local", "gpus_per_worker": float("nan")}, "at least 0"),
        ({"ray": "local", "device": "cpu"}, "does not go with --ray"),
        ({"num_workers": 2}, "need --ray"),
        ({"max_failures": -1}, "at least 0"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"precision": "half"}, "must be one of"),
        ({"shard": ""}, "is not i/n"),
        ({"shard": "0/3"}, "is not i/n"),
        ({"shard": "4/3"}, "is not i/n"),
        ({"shard": "1/" + "9" * 5000}, "is not i/n"),
        ({"shard": "\u0661/\u0662"}, "is not i/n"),
        ({"worker": 3}, "no option 'worker'; did you mean 'workers'"),
    ],
)
def test_what_cannot_be_is_refused_before_torch(options: dict[str, object], words: str) -> None:
    with pytest.raises(QamroError, match=words) as caught:
        from_options(ExtractRequest, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [("--shard", ""), ("--shard", "x"), ("--batch-size", "1e9"), ("--num-workers", "2")],
)
def test_wrong_usage_of_the_command(arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(
        command, ["--dataset", "demo", "--out", "x.h5", "--encoder", "mel", *arguments]
    )
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("device", ["hpu", "meta", "privateuseone", "xla", "cuda:99", "nope"])
def test_a_device_that_torch_knows_and_this_machine_lacks(
    manifest: Path, tmp_path: Path, device: str
) -> None:
    with pytest.raises(QamroError, match=f"device '{device}' cannot be used here") as caught:
        extract(manifest, tmp_path / "e.h5", "mel", device=device)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_loaded_encoder_has_its_options(manifest: Path, tmp_path: Path) -> None:
    for options in ({"precision": "float16"}, {"ray": "local"}):
        with pytest.raises(QamroError, match="need the encoder's name"):
            extract(manifest, tmp_path / "e.h5", FakeEncoder(), **options)


def test_a_part_without_clips(manifest: Path, tmp_path: Path) -> None:
    """Six clips in units of four: two units for nine parts."""
    with pytest.raises(QamroError, match="part 1/9 holds no clips"):
        extract(manifest, tmp_path / "e.h5", FakeEncoder(), shard="1/9", batch_size=4)
    assert not list(tmp_path.glob("*.h5*"))


def test_requests_load_no_torch() -> None:
    import subprocess

    code = "import sys, qamro_cache_cli.extract; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_one_error_before_the_first_clip(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the failure of every clip; what decodes clips comes with the core."""
    monkeypatch.setattr("qamro_cache.encoders.support.find_spec", lambda name: None)
    out = tmp_path / "emb.h5"
    ask = ["--manifest", str(manifest), "--encoder", "distillmos", "--out", str(out)]
    failed = CliRunner().invoke(command, ask)
    assert failed.exit_code == 1
    line = failed.stderr.strip().splitlines()[-1]
    assert line.startswith("error: encoder distillmos is not ready: package distillmos is not")
    assert "run: pip install 'distillmos" in line
    assert not list(tmp_path.glob("emb.h5*"))
    core = (Path(__file__).parents[1] / "setup.cfg").read_text().split("[options.package_data]")[0]
    assert {"soundfile", "soxr"} <= set(re.findall(r"^    (\w+)>=", core, re.MULTILINE))
