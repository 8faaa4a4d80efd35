"""The doctor finds what is wrong with an encoder, a line each."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qamro_cache.encoders import doctor, registry
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder


def test_a_healthy_encoder():
    found = list(doctor.check_encoder("mel"))
    assert all(check.ok for check in found)
    assert [check.name for check in found] == [
        "weights", "features", "repeatable", "batches", "speed",
    ]  # fmt: skip


def test_what_is_missing_is_said():
    found = list(doctor.check_encoder("clap"))
    assert [check.ok for check in found] == [False]
    assert "give --checkpoint FILE" in found[0].detail
    found = list(doctor.check_encoder("clap", EncoderOptions(checkpoint="/nothing.pt")))
    assert "/nothing.pt is not a file; get it from https://" in found[0].detail
    assert not next(doctor.check_encoder("nope")).ok


def sick(change) -> list[doctor.Check]:
    """Check mel with its output changed."""
    mel = load_encoder("mel")
    calls = SimpleNamespace(count=0)

    def encode(windows, valid):
        calls.count += 1
        return {"statistics": change(mel.encode(windows, valid)["statistics"], calls.count)}

    encoder = SimpleNamespace(spec=mel.spec, encode=encode, encode_text=mel.encode_text)
    found = [*doctor._audio(encoder, "cpu"), *doctor._repeatable(encoder, "cpu")]
    return [check for check in [*found, *doctor._batches(encoder, "cpu")] if not check.ok]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x, call: x * float("nan"), "features"),
        (lambda x, call: x[:, :5], "features"),
        (lambda x, call: torch.ones_like(x), "features"),
        (lambda x, call: x + call, "repeatable"),
        (lambda x, call: x - x.mean(0), "batches"),
    ],
    ids=["nan", "shape", "constant", "random", "batch"],
)
def test_a_sick_encoder_is_found(change, name):
    assert name in [check.name for check in sick(change)]


def test_prompts_that_embed_alike_are_found():
    spec = replace(load_encoder("mel").spec, text_features={"text": (3,)})
    encoder = SimpleNamespace(spec=spec, encode_text=lambda p: {"text": torch.ones(len(p), 3)})
    assert [check.ok for check in doctor._text(encoder, "cpu")] == [False]


def test_a_checkpoint_that_does_not_fit_is_a_line(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "a.pt")
    options = EncoderOptions(checkpoint=str(tmp_path / "a.pt"), tokenizer="none")
    found = list(doctor.check_encoder("clap", options))
    assert [(check.name, check.ok) for check in found] == [("weights", False)]
    assert "is no CLAP that we know" in found[0].detail


def test_every_registered_encoder_answers_the_doctor():
    for info in registry.list_encoders():
        name = f"{info.name}:x" if info.argument else info.name
        for check in doctor.check_encoder(name):
            assert "\n" not in check.detail
            if not check.ok or info.name != "mel":
                break


def test_the_command_shows_findings_and_its_exit_code_tells():
    from click.testing import CliRunner

    from cli.extract import main

    done = CliRunner().invoke(main, ["--check", "--encoder", "mel", "--json"])
    assert done.exit_code == 0
    assert '"name": "repeatable"' in done.stdout
    done = CliRunner().invoke(main, ["--check", "--encoder", "clap"])
    assert done.exit_code == 1
    assert done.stdout.startswith("FAIL missing: no checkpoint is named; give --checkpoint FILE")
    assert CliRunner().invoke(main, ["--check"]).exit_code == 2


def test_a_comparison_that_fails_is_a_line(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("CUDA error: out of memory\nmore of it")

    monkeypatch.setattr(doctor, "compare", broken)
    last = list(doctor.check_encoder("mel"))[-1]
    assert (last.name, last.ok, last.detail) == ("upstream", False, "CUDA error: out of memory")
