"""MuQ by its authors' package, in its architecture with random weights: the real ones are far."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from muq_reference import hidden_states, make_reference
from safetensors.torch import load_file, save_file

from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import muq
from qamro_cache.encoders.muq import SAMPLE_RATE, WINDOW
from qamro_cache.encoders.protocol import EncoderOptions
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError
from qamro_cache.heads.file import load_head

pytestmark = [
    # Found, not imported: that takes seconds, of every worker that collects this file.
    pytest.mark.skipif(find_spec("muq") is None, reason="muq is not installed"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The authors' classes, smaller."""
    folder = tmp_path_factory.mktemp("muq")
    return make_reference(folder, encoder_dim=64, encoder_depth=2, conv_dim=8)


def load(folder, **options):
    return load_encoder("muq", EncoderOptions(checkpoint=str(folder), **options))


def clips(*seconds):
    generator = torch.Generator().manual_seed(0)
    valid = torch.tensor([round(s * SAMPLE_RATE) for s in seconds])
    windows = 0.1 * torch.randn(len(seconds), WINDOW, generator=generator)
    windows[torch.arange(WINDOW) >= valid[:, None]] = 0
    return windows, valid


def assert_equals_upstream(encoder, network, windows, valid):
    got = encoder.encode(windows, valid)["layers"]
    for module in network.model.conformer.modules():
        if hasattr(module, "config"):  # transformers 5 does not run on upstream's dictionary
            module.config = encoder.network.conformer.config
    for row, size in enumerate(valid.tolist()):
        with torch.no_grad():
            states = hidden_states(network, windows[row : row + 1, :size])
        expected = torch.stack([state[0].mean(0) for state in states])
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=0)


def test_layers_are_upstreams_hidden_states(reference):
    encoder = load(reference.folder)
    assert dict(encoder.spec.features) == {"layers": (3, 64)}
    assert_equals_upstream(encoder, reference.network, *clips(1, 30, 0.1, 1))


@pytest.mark.slow
def test_the_published_architecture(tmp_path):
    reference = make_reference(tmp_path)
    encoder = load(tmp_path)
    assert dict(encoder.spec.features) == {"layers": (13, 1024)}
    assert_equals_upstream(encoder, reference.network, *clips(2, 0.5))


def test_the_same_in_any_batch(reference):
    encoder, (windows, valid) = load(reference.folder), clips(1, 2, 1, 0.3)
    together = encoder.encode(windows, valid)["layers"]
    for row in range(4):
        alone = encoder.encode(windows[row : row + 1], valid[row : row + 1])["layers"][0]
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near(reference, precision):
    whole, half = load(reference.folder), load(reference.folder, precision=precision)
    assert half.spec != whole.spec
    windows, valid = clips(1)
    got, expected = (encoder.encode(windows, valid)["layers"] for encoder in (half, whole))
    assert got.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(got, expected, dim=-1).min() > 0.999


def test_the_other_form_of_weights_and_names_of_older_versions(reference, tmp_path):
    state = load_file(reference.folder / "model.safetensors")
    state["model.conformer.pos_conv_embed.conv.weight_g"] = torch.zeros(1)  # of no feature
    torch.save(state, tmp_path / "pytorch_model.bin")
    shutil.copy(reference.folder / "config.json", tmp_path)
    windows, valid = clips(0.5)
    pair = [
        load(folder).encode(windows, valid)["layers"] for folder in (reference.folder, tmp_path)
    ]
    assert torch.equal(*pair)


def test_what_cannot_be_is_one_line(reference, tmp_path):
    with pytest.raises(QamroError, match=r"no config.json and .*; run: hf download"):
        load(tmp_path)
    state = load_file(reference.folder / "model.safetensors")
    del state["model.conformer.layers.1.ffn1.output_dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    shutil.copy(reference.folder / "config.json", tmp_path)
    with pytest.raises(QamroError, match=r"MuQ .*: 1 tensors missing \(layers.1.ffn1"):
        load(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for wrong in ("{", json.dumps(settings | {"stat": {}}), json.dumps({"hidden_size": 3})):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(QamroError, match=r"config.json is no configuration of MuQ") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)


def test_the_license_is_printed_and_kept_in_cache_and_head(reference, tmp_path):
    from cli.extract import main as extract
    from cli.train import main as train

    draw = np.random.default_rng(0)
    rows = ["path,quality"]
    for index in range(12):
        sound = 0.1 * draw.standard_normal(SAMPLE_RATE // 4)
        soundfile.write(tmp_path / f"{index}.wav", sound, SAMPLE_RATE)
        rows.append(f"{index}.wav,{index % 5 + 1}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    done = CliRunner().invoke(
        extract, ["--manifest", str(tmp_path / "clips.csv"), "--scale", "quality=1:5",
                  "--encoder", "muq", "--checkpoint", str(reference.folder), "--device", "cpu",
                  "--out", str(tmp_path / "emb.h5")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"the weights of muq are {muq.LICENSE}" in done.stderr
    assert open_cache(tmp_path / "emb.h5").licenses == {"encoder": muq.LICENSE}
    done = CliRunner().invoke(
        train, ["--cache", str(tmp_path / "emb.h5"), "--cv", "3", "--head", "ridge",
                "--device", "cpu", "--out", str(tmp_path / "run")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load_head(tmp_path / "run" / "head.safetensors").training["licenses"] == {
        "encoder": muq.LICENSE
    }
