"""What the commands share."""

import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate
from qamro_cache_cli.cache import main as cache
from qamro_cache_cli.common import printable
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.predict import main as predict
from qamro_cache_cli.train import main as train


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (extract, ["--dataset", "demo", "--encoder", "mel", "--out", "x.h5"]),
        (train, ["--cache", "x.h5", "--out", "run"]),
        (ablate, ["--cache", "x.h5", "--out", "grid"]),
        (predict, ["--head", "h", "--cache", "x.h5", "--out", "p.csv"]),
    ],
)
def test_a_device_that_is_not_there_is_one_line(command, arguments, device):
    failed = CliRunner().invoke(command, [*arguments, "--device", device])
    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"error: --device {device} cannot be used here")
    assert failed.stderr.count("\n") == 1


def test_an_output_folder_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "run").write_text("mine")
    for command in (train, ablate):
        failed = CliRunner().invoke(
            command, ["--cache", str(tmp_path / "none.h5"), "--out", str(tmp_path / "run")]
        )
        assert (failed.exit_code, "is a file" in failed.stderr) == (1, True), failed.output
    assert (tmp_path / "run").read_text() == "mine"


def test_verifying_a_file_that_is_not_there_is_one_line(tmp_path):
    failed = CliRunner().invoke(cache, ["verify", str(tmp_path / "none.h5")])
    assert failed.exit_code == 1
    assert failed.stderr == f"error: there is no cache {tmp_path / 'none.h5'}\n"


def test_terminal_escapes_are_shown_not_obeyed():
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("Käfer") == "Käfer"
