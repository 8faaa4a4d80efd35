"""What the commands share."""

import json
import logging
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate
from qamro_cache_cli.cache import main as cache
from qamro_cache_cli.common import notices_to_stderr, printable
from qamro_cache_cli.evaluate import main as evaluate
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.predict import main as predict
from qamro_cache_cli.tables import show_fields
from qamro_cache_cli.train import main as train
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache


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
    assert failed.stderr.startswith(f"error: device {device!r} cannot be used here")
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
    assert (
        failed.stderr
        == f"error: there is no cache {tmp_path / 'none.h5'}; qamro-extract makes one\n"
    )


@pytest.mark.parametrize("command", [extract, train, ablate, evaluate, predict, cache])
def test_every_command_says_its_version(command):
    said = CliRunner().invoke(command, ["--version"])
    assert said.exit_code == 0, said.output
    assert said.stdout.split()[-1] == version("qamro-cache")


def test_what_a_cache_holds_and_the_encoders_fit_eighty_columns(tmp_path):
    path = write_synthetic(tmp_path / "emb.h5", split=True)
    said = CliRunner().invoke(cache, ["info", str(path)])
    assert said.exit_code == 0, said.output
    found = open_cache(path)
    for words in ("40 (39 ok, 1 unreadable)", "train 30, dev 10", "layers 3 x 6", "synthetic",
                  "quality 0 to 100 (40 clips rated)", found.identity_sha256):  # fmt: skip
        assert words in " ".join(said.stdout.split()), said.stdout
    encoders = CliRunner().invoke(extract, ["--list-encoders"])
    for name in ("mel", "clap", "https://huggingface.co/lukewys/laion_clap"):
        assert name in encoders.stdout.split(), "a name or an address is cut"
    for text in (said.stdout.replace(str(path), "emb.h5"), encoders.stdout):
        assert text[0] not in " \n"
        assert max(map(len, text.splitlines())) <= 80


def test_a_word_too_long_for_its_place_stays_in_one_piece(capsys):
    show_fields([("hash", "f" * 75 + " x"), ("name", "words " * 20), ("none", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["hash", "    " + "f" * 75, "    x"]
    assert lines[3] == "name  " + "words " * 11 + "words"
    assert lines[-1] == "none  -"


SCRIPT = """
import json, sys
from importlib import import_module
from click.testing import CliRunner
for command, arguments, code, words in json.load(sys.stdin):
    main = import_module(f"qamro_cache_cli.{command}").main
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == code, (command, arguments, refused.output, refused.exception)
    assert words in " ".join(refused.stderr.splitlines()[-1].split()), refused.stderr
    assert "torch" not in sys.modules, (command, arguments)
"""


def test_mistakes_are_refused_before_torch_is_loaded(tmp_path):
    """Importing it takes seconds, and a wrong word needs none of it."""
    path = str(write_synthetic(tmp_path / "emb.h5"))
    (tmp_path / "text.h5").write_text("clip_id,path")
    (tmp_path / "bad.toml").write_text("[grid]\ngamma = [1]\n")
    (tmp_path / "p.csv").write_text("clip_id,axis,prediction\nclip000,quality,1\n")
    common = ["--out", str(tmp_path / "run"), "--cache"]
    cases: list[tuple[str, list[str], int, str]] = []
    cases += [("train", ["--out", "", "--cache", path], 1, "is the folder you are in")]
    mel = ["--manifest", path, "--encoder", "mel", "--out", ""]
    cases += [("extract", mel, 1, "is a folder; name a file in it")]
    for command in ("train", "ablate"):
        cases += [
            (command, [*common, str(tmp_path / "none.h5")], 1, "there is no cache"),
            (command, [*common, str(tmp_path / "text.h5")], 1, "is no cache"),
            (command, [*common, path, "--axis", "beauty"], 1, "there are: quality, match"),
            (command, [*common, path, "--cv", "song"], 1, "prompt, split or a number of folds"),
            (command, [*common, path, "--feature", "wave"], 1, "there are: embedding, layers"),
            (command, [*common, path, "--labels", "none.csv"], 1, "none.csv"),
            (command, [*common, path, "--alpha", "-1"], 2, "alpha must be at least 0"),
            (command, [*common, path, "--widths", "0"], 2, "widths must be at least 1"),
            (command, [*common, path, "--seeds", "0"], 2, "seeds must be at least 1"),
        ]
    grid = [*common, path, "--grid"]
    labels = ["--predictions", str(tmp_path / "p.csv"), "--labels"]
    head = ["--out", str(tmp_path / "o.csv"), "--head"]
    cases += [
        ("ablate", [*grid, "alphabeta"], 1, "there are: alpha_beta, annotation_noise"),
        ("ablate", [*grid, str(tmp_path / "bad.toml")], 1, "gamma"),
        ("extract", ["--dataset", "nope", "--encoder", "mel", *common[:2]], 1, "no dataset 'nope'"),
        ("extract", ["--manifest", "none.csv", "--encoder", "mel", *common[:2]], 1, "none.csv"),
        ("evaluate", [*labels, str(tmp_path / "none.h5")], 1, "there is no cache"),
        ("evaluate", [*labels, path, "--axis-map", "quality=beauty"], 1, "no axis 'beauty'"),
        ("predict", [*head, "none.safetensors", "--cache", path], 1, "none.safetensors: no such"),
        ("predict", [*head, path, "--cache", str(tmp_path / "none.h5")], 1, "there is no cache"),
        ("predict", [*head, path, "--cache", path, "--answer-list", path], 2, "give --answer FILE"),
        ("cache", ["verify", path, "--deep", "--sample", "0"], 2, "--sample"),
        ("cache", ["info", str(tmp_path / "text.h5")], 1, "is no cache"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(cases), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_terminal_escapes_are_shown_not_obeyed(capsys, monkeypatch):
    assert printable("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert printable("Käfer") == "Käfer"
    logger = logging.getLogger("qamro_cache")
    monkeypatch.setattr(logger, "handlers", [])
    notices_to_stderr()
    logger.warning("%s changed", "a\x1b[2Jb\nc.wav")
    assert capsys.readouterr().err == "WARNING: a\\x1b[2Jb\\nc.wav changed\n"
