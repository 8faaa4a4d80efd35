"""The doctor's comparison with the authors' packages: sees agreement, and sees what is broken."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from qamro_cache.encoders import upstream
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.encoders.upstream_packages import UPSTREAMS, Upstream

pytest.importorskip("soundfile")


class Case:
    """An encoder, files of sounds, and what the authors' package makes of them."""

    def __init__(self, name, options, folder, monkeypatch):
        self.encoder = load_encoder(name, options)
        monkeypatch.setattr(upstream, "SOUNDS", upstream.SOUNDS[:2])
        self.files = upstream.write_sounds(folder, self.encoder)
        with upstream.quiet(), torch.inference_mode():
            self.theirs = UPSTREAMS[name].features(self.files, self.encoder, options)

    def agrees(self, encoder=None, **policy) -> bool:
        """Judge ``encoder``, with another audio policy if one is given."""
        encoder = copy.copy(encoder or self.encoder)
        encoder.spec = replace(encoder.spec, audio=replace(encoder.spec.audio, **policy))
        ours = upstream.ours(self.files, encoder, "cpu")
        return upstream.judge(ours, self.theirs, upstream.LIMITS["float32"])[0]


def test_clap(clap_reference, tmp_path, monkeypatch):
    options = EncoderOptions(
        checkpoint=str(clap_reference.checkpoint), tokenizer=str(clap_reference.tokenizer)
    )
    case = Case("clap", options, tmp_path, monkeypatch)
    assert set(case.theirs) == {"waveform", "pooled", "embedding", "text"}
    assert case.agrees()
    broken = copy.copy(case.encoder)
    broken.network = copy.deepcopy(case.encoder.network)
    broken.network.audio_branch.layers[2].blocks[3].attn.bias.zero_()
    assert not case.agrees(broken)
    # What happens before the network is seen whatever the network makes of it.
    right = {name: case.theirs[name] for name in ("embedding", "pooled")}
    monkeypatch.setattr(case.encoder, "encode", lambda windows, valid: right)
    assert case.agrees()
    assert not case.agrees(int16=False)
    assert not case.agrees(padding="zero")
    assert not case.agrees(resampler="soxr-LQ")


def test_audiobox(audiobox_reference, tmp_path, monkeypatch):
    options = EncoderOptions(checkpoint=str(audiobox_reference.folder))
    case = Case("audiobox", options, tmp_path, monkeypatch)
    assert set(case.theirs) == {"waveform", "layers"}
    assert case.agrees()
    monkeypatch.setattr(case.encoder, "encode", lambda w, v: {"layers": case.theirs["layers"]})
    assert case.agrees()
    assert not case.agrees(resampler="soxr-HQ")


def test_distillmos(tmp_path, monkeypatch):
    pytest.importorskip("distillmos")
    case = Case("distillmos", EncoderOptions(), tmp_path, monkeypatch)
    assert set(case.theirs) == {"waveform", "mos"}
    assert case.agrees()
    assert not case.agrees(resampler="soxr-HQ")


def test_values_that_are_not_finite_disagree():
    rows = torch.eye(3)
    assert upstream.relative_error(rows, rows) == 0
    assert upstream.relative_error(rows * torch.nan, rows) == torch.inf


def check(monkeypatch, features, module="numpy"):
    """Run the command on mel, as if it came from a package; its exit code and last line."""
    from cli.extract import main

    monkeypatch.setitem(UPSTREAMS, "mel", Upstream(module, "numpy", features))
    done = CliRunner().invoke(main, ["--check", "--encoder", "mel", "--device", "cpu"])
    return done.exit_code, done.stdout.splitlines()[-1]


def test_the_command_says_what_came_out(monkeypatch):
    def same(files, encoder, options):
        return upstream.ours(files, encoder, "cpu")

    def half_as_loud(files, encoder, options):
        found = upstream.ours(files, encoder, "cpu")
        return found | {"waveform": found["waveform"] / 2}

    def broken(files, encoder, options):
        raise AttributeError("no such thing\nin this version")

    code, line = check(monkeypatch, same)
    assert code == 0
    assert line.startswith(f"ok   upstream: agrees with numpy {np.__version__}: error statistics 0")
    code, line = check(monkeypatch, half_as_loud)
    assert code == 1
    assert line.startswith(f"FAIL upstream: DISAGREES with numpy {np.__version__}: ")
    code, line = check(monkeypatch, broken)
    assert code == 0
    assert line.endswith("does not run here (AttributeError: no such thing in this version)")
    code, line = check(monkeypatch, broken, "nothing_of_that_name")
    assert code == 0
    assert "is not installed; run: pip install 'laion-clap==" in line


def test_settings_of_ours_that_upstream_has_not():
    encoder = load_encoder("mel")
    assert upstream.compare(encoder, EncoderOptions(), "cpu") is None
    pytest.importorskip("distillmos")
    options = EncoderOptions(rate_policy="as-is")
    agrees, line = upstream.compare(load_encoder("distillmos", options), options, "cpu")
    assert agrees is None
    assert "has no --rate-policy as-is" in line
