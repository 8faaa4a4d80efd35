"""What the commands share."""

import json
import logging
import re
import subprocess
import sys
from contextlib import chdir, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate
from qamro_cache_cli.cache import main as cache
from qamro_cache_cli.calibrate import main as calibrate
from qamro_cache_cli.common import notices_to_stderr, printable
from qamro_cache_cli.ensemble import main as ensemble
from qamro_cache_cli.evaluate import main as evaluate
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.filter import main as filter_
from qamro_cache_cli.head import main as head
from qamro_cache_cli.options import Name
from qamro_cache_cli.predict import main as predict
from qamro_cache_cli.report import main as report
from qamro_cache_cli.sections import SECTIONS
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


@pytest.mark.parametrize(
    "command", [extract, train, ablate, evaluate, predict, cache, head, filter_]
)
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


def every_command():
    """All commands, those of qamro-cache too: words on a line -> the command."""
    found = {"extract": extract, "train": train, "ablate": ablate, "evaluate": evaluate,
             "predict": predict, "filter": filter_, "cache": cache, "head": head,
             "calibrate": calibrate, "ensemble": ensemble, "report": report}  # fmt: skip
    groups = {"cache": cache, "head": head}
    return found | {f"{g} {n}": one for g, of in groups.items() for n, one in of.commands.items()}


@pytest.mark.parametrize("words", sorted(every_command()))
def test_every_command_has_help_and_says_wrong_usage_in_one_line(words):
    root, *below = words.split()
    run = partial(CliRunner().invoke, every_command()[root], prog_name=f"qamro-{root}")
    short, long = run([*below, "-h"]), run([*below, "--help"])
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert short.stdout.startswith(f"Usage: qamro-{words} ")
    # Every command needs to be told something, but for the one that looks at the machine.
    nothing = [] if words in ("cache doctor", "head info") else [[]]
    for arguments in (*nothing, ["--no-such-option"], ["-x"]):
        wrong = run([*below, *arguments])
        assert wrong.exit_code == 2, (words, arguments, wrong.output)
        assert wrong.stderr.startswith("error: ")
        assert wrong.stderr.count("\n") == 1
        assert "Usage" not in wrong.stderr


@pytest.mark.parametrize("words", sorted(every_command()))
def test_an_empty_name_is_told_and_is_never_the_folder_one_is_in(words):
    root, *below = words.split()
    for parameter in every_command()[words].params:
        of_text = getattr(getattr(parameter.type, "setting", None), "kind", None) is str
        if not (of_text or isinstance(parameter.type, click.Path | Name)):
            continue
        is_option = isinstance(parameter, click.Option)
        assert parameter.default != "", "a default is looked at as what is given"
        name = parameter.opts[0] if is_option else parameter.human_readable_name.rstrip(".")
        wrong = CliRunner().invoke(
            every_command()[root], [*below, *([name, ""] if is_option else [""])]
        )
        assert wrong.exit_code == 2, (name, wrong.output)
        assert wrong.stderr.startswith(f"error: {name} is empty; "), wrong.stderr
        assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize("words", sorted(every_command()))
def test_a_wrong_choice_of_any_option_names_the_nearest(words):
    root, *below = words.split()
    for option in every_command()[words].params:
        choices = getattr(getattr(option, "setting", option.type), "setting", None)
        choices = () if choices is None else [c for c in choices.choices if len(c) > 2]
        for choice in choices:
            wrong = CliRunner().invoke(
                every_command()[root], [*below, option.opts[0], choice[:-1] + choice[-1] * 2]
            )
            assert wrong.exit_code == 2
            assert f"did you mean {choice!r}?" in wrong.stderr, (option.name, wrong.stderr)
            assert wrong.stderr.count("\n") == 1


def test_a_wrong_encoder_names_the_nearest(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "clips.csv").write_text("clip_id,path\na,a.wav\n")
    own = ["--manifest", str(tmp_path / "clips.csv"), "--out", str(tmp_path / "emb.h5")]
    for arguments in (["--check"], own):
        wrong = CliRunner().invoke(extract, [*arguments, "--encoder", "distilmos"])
        assert wrong.exit_code == 2, wrong.output
        assert wrong.stderr.startswith("error: no encoder 'distilmos'; there are: mel, ")
        assert wrong.stderr.endswith("; did you mean 'distillmos'?\n")
    assert not (tmp_path / "emb.h5.parts").exists()


def completed(command, line, tmp_path):
    """What the tab key offers, asked of the command as bash does."""
    words = line.split(" ")
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
                 f"_QAMRO_{words[0][6:].upper()}_COMPLETE": "bash_complete"}  # fmt: skip
    with monkey_environment(variables, tmp_path):
        said = CliRunner().invoke(command, prog_name=words[0])
    assert said.exit_code == 0, said.output
    assert said.stderr == ""
    return [item.partition(",")[2] for item in said.stdout.split()]


@contextmanager
def monkey_environment(variables, folder):
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def test_the_tab_key_offers_values(tmp_path):
    write_synthetic(tmp_path / "emb.h5")
    for command, line, values in (
        (
            extract,
            "qamro-extract --encoder ",
            ["mel", "distillmos", "resemblyzer", "clap", "audiobox", "muq", "hf:"],
        ),
        (extract, "qamro-extract --dataset somos", ["somos-clean", "somos"]),
        (extract, "qamro-extract --dataset ./my", ["./my"]),  # a file's name
        (evaluate, "qamro-evaluate --dataset bv", ["bvcc"]),
        (ablate, "qamro-ablate --grid a", ["alpha_beta", "annotation_noise"]),
        (ablate, "qamro-ablate --loss huber,ms", ["huber,mse"]),
        (train, "qamro-train --loss h", ["huber"]),
        (train, "qamro-train --optimizer ", ["adamw", "sgd"]),
        (train, "qamro-train --cv ", ["system", "group", "prompt", "source", "split"]),
        (train, "qamro-train --cache emb.h5 --axis ", ["quality", "match"]),
        (train, "qamro-train --cache emb.h5 --feature ", ["embedding", "layers"]),
        (train, "qamro-train --cache none.h5 --axis ", []),
        (cache, "qamro-cache in", ["info"]),
        (cache, "qamro-cache export --format ", ["safetensors", "npy"]),
    ):
        assert sorted(completed(command, line, tmp_path)) == sorted(values), line


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
    cases += [("train", ["--out", ".", "--cache", path], 1, "is the folder you are in")]
    mel = ["--manifest", path, "--encoder", "mel", "--out", "."]
    cases += [("extract", mel, 2, "'.' is a directory")]
    for command in ("train", "ablate"):
        cases += [
            (command, [*common, str(tmp_path / "none.h5")], 1, "there is no cache"),
            (command, [*common, str(tmp_path / "text.h5")], 1, "is no cache"),
            (command, [*common, path, "--axis", "qualty"], 2, "did you mean 'quality'?"),
            (command, [*common, path, "--cv", "grop"], 2, "at least 2; did you mean 'group'?"),
            (command, [*common, path, "--feature", "layer"], 2, "did you mean 'layers'?"),
            (command, [*common, path, "--labels", "none.csv"], 1, "none.csv"),
            (command, [*common, path, "--alpha", "-1"], 2, "alpha must be at least 0"),
            (command, [*common, path, "--widths", "0"], 2, "widths must be at least 1"),
            (command, [*common, path, "--seeds", "0"], 2, "seeds must be at least 1"),
        ]
    grid = [*common, path, "--grid"]
    labels = ["--predictions", str(tmp_path / "p.csv"), "--labels"]
    head = ["--out", str(tmp_path / "o.csv"), "--head"]
    cases += [
        ("ablate", [*grid, "alphabeta"], 2, "did you mean 'alpha_beta'?"),
        ("ablate", [*grid, str(tmp_path / "bad.toml")], 1, "gamma"),
        (
            "extract",
            ["--dataset", "bvc", "--encoder", "mel", *common[:2]],
            2,
            "did you mean 'bvcc'?",
        ),
        ("extract", ["--manifest", "none.csv", "--encoder", "mel", *common[:2]], 1, "none.csv"),
        ("evaluate", [*labels, str(tmp_path / "none.h5")], 1, "there is no cache"),
        ("evaluate", [*labels, path, "--axis-map", "quality=qualty"], 2, "did you mean 'quality'?"),
        ("predict", [*head, "none.safetensors", "--cache", path], 1, "none.safetensors: no such"),
        ("predict", [*head, path, "--cache", str(tmp_path / "none.h5")], 1, "there is no cache"),
        ("predict", [*head, path, "--cache", path, "--answer-list", path], 2, "give --answer FILE"),
        ("cache", ["verify", path, "--deep", "--sample", "0"], 2, "--sample"),
        ("cache", ["info", str(tmp_path / "text.h5")], 1, "is no cache"),
        ("cache", ["inof", path], 2, "did you mean 'info'?"),
        ("cache", ["export", path, "--out", "x", "--format", "np"], 2, "did you mean 'npy'?"),
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


def test_many_options_stand_once_each_under_headings():
    known = set()
    for command in (train, ablate, extract, predict, evaluate):
        lines = CliRunner().invoke(command, ["--help"]).stdout.splitlines()
        names = [re.match(r"  (?:-h, )?(--[-a-z0-9]+)", line) for line in lines]
        found = [one[1] for one in names if one]
        assert sorted(found) == sorted({one.opts[-1] for one in command.params} | {"--help"})
        known |= {one.name for one in command.params}
        heads = [line for line in lines if re.fullmatch(r"[A-Z][A-Za-z ]+:", line)]
        assert heads[0] == "Clips and ratings:"
        assert heads[-1] == "Results:"
        assert max(map(len, lines)) <= 80
    assert not {name for names in SECTIONS.values() for name in names} - known
    assert "Options:" in CliRunner().invoke(report, ["--help"]).stdout


def test_notices_are_wrapped_on_a_terminal_and_name_a_files_folder_once(capsys, monkeypatch):
    logger, path = logging.getLogger("qamro_cache"), Path("/far/away") / ("x" * 60) / "a.csv"
    monkeypatch.setattr(logger, "handlers", [])
    notices_to_stderr()
    logger.info("%s: %s", path, "word " * 30)
    logger.info("%s: %s", path, "word " * 30)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"INFO: {path}: word"), "a line each where nobody looks"
    assert second == f"INFO: a.csv: {'word ' * 30}"
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logger.info("%s: %s", path, "word " * 30)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 60
    assert lines[0].startswith("INFO: a.csv: word")
    assert lines[1].startswith("  word")
