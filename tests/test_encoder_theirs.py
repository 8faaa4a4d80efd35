"""--backend upstream: the authors' packages in our place, another identity, the same interface."""

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from cli.extract import main
from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import support
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder, options_of
from qamro_cache.encoders.upstream import LIMITS, relative_error
from qamro_cache.errors import QamroError
from qamro_cache.identity import identity_differences, identity_of


@pytest.fixture(
    params=["clap", "audiobox-file", pytest.param("audiobox-folder", marks=pytest.mark.slow)]
)
def options(request) -> tuple[str, dict[str, str]]:
    """An encoder's name and what it takes, with random weights in each published form."""
    name, _, form = request.param.partition("-")
    reference = request.getfixturevalue(f"{name}_reference")
    if name == "clap":
        return name, {
            "checkpoint": str(reference.checkpoint), "tokenizer": str(reference.tokenizer),
        }  # fmt: skip
    return name, {"checkpoint": str(getattr(reference, form))}


def windows_of(encoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Two windows as the audio policy fills them, one of them short: synthetic."""
    policy = encoder.spec.audio
    draw = np.random.default_rng(0)
    time = np.arange(policy.window) / policy.sample_rate
    sounds = np.stack([np.sin(2 * np.pi * f * time) for f in (220, 3_000)])
    sounds = (0.3 * sounds + 0.05 * draw.standard_normal(sounds.shape)).astype(np.float32)
    valid = torch.tensor([policy.window, policy.window // 3])
    short = np.tile(sounds[1, : valid[1]], 3 if policy.padding == "repeat" else 1)
    sounds[1] = 0
    sounds[1, : len(short)] = short
    return torch.from_numpy(sounds), valid


def test_the_same_features_by_another_identity(options):
    name, given = options
    ours = load_encoder(name, EncoderOptions(**given))
    theirs = load_encoder(name, EncoderOptions(**given, backend="upstream"))
    windows, valid = windows_of(ours)
    a, b = ours.encode(windows, valid), theirs.encode(windows, valid)
    assert a.keys() == b.keys() == theirs.spec.features.keys()
    for feature, shape in theirs.spec.features.items():
        assert b[feature].shape == (2, *shape)
        assert relative_error(a[feature], b[feature]) < LIMITS["float32"]
        assert not torch.equal(a[feature], b[feature])  # they are two programs
    if name == "clap":
        prompts = ("a slow piano piece", "drums", "a")
        a, b = ours.encode_text(prompts), theirs.encode_text(prompts)
        assert relative_error(a["text"], b["text"]) < LIMITS["float32"]
    record = identity_of(theirs.spec)
    (difference,) = identity_differences(identity_of(ours.spec), record)
    assert difference.startswith("options.backend: '(absent)' here, ")
    assert options_of(record).backend == "upstream"
    assert options_of(identity_of(ours.spec)).backend == "ours"


@pytest.mark.slow
def test_extracted_by_the_command(audiobox_reference, tmp_path):
    sound = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    (tmp_path / "clips.csv").write_text("path,quality\na.wav,3\n")
    for backend in ("upstream", "ours"):
        done = CliRunner().invoke(
            main, ["--manifest", str(tmp_path / "clips.csv"), "--scale", "quality=1:5",
                   "--encoder", "audiobox", "--checkpoint", str(audiobox_reference.folder),
                   "--backend", backend, "--device", "cpu", "--out", str(tmp_path / "emb.h5")],
        )  # fmt: skip
        if backend == "upstream":
            assert done.exit_code == 0, done.output
            cache = open_cache(tmp_path / "emb.h5")
            assert cache.identity["options"]["backend"].startswith("audiobox-aesthetics 0.")
            assert cache.licenses == {"encoder": "CC-BY 4.0"}
    assert done.exit_code == 1
    assert "backend" in done.stderr


def test_who_has_no_such_package_refuses():
    for name in ("mel", "distillmos"):
        with pytest.raises(QamroError, match=rf"{name} takes no backend \(given: 'upstream'\)"):
            load_encoder(name, EncoderOptions(backend="upstream"))


def test_precision_is_theirs(clap_reference):
    given = {"checkpoint": str(clap_reference.checkpoint), "tokenizer": "none"}
    with pytest.raises(QamroError, match="backend upstream computes in float32 alone"):
        load_encoder("clap", EncoderOptions(**given, backend="upstream", precision="float16"))


@pytest.mark.parametrize(
    ("name", "package"), [("clap", "laion-clap=="), ("audiobox", "audiobox-aesthetics==")]
)
def test_a_package_that_is_not_there_is_named(monkeypatch, name, package):
    absent = ("laion_clap", "audiobox_aesthetics")
    monkeypatch.setattr(support, "find_spec", lambda module: None if module in absent else module)
    with pytest.raises(QamroError, match=rf"{package.split('=')[0].replace('-', '_')} is not"):
        load_encoder(name, EncoderOptions(backend="upstream"))
