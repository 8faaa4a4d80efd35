"""``hf:`` against the transformers model itself, on tiny random models of each family."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from clap_reference import sound, write_vocabulary  # noqa: E402
from test_encoder_offline import can_unshare  # noqa: E402
from test_encoder_offline import run as without_network  # noqa: E402

from qamro_cache.encoders.protocol import EncoderOptions  # noqa: E402
from qamro_cache.encoders.registry import load_encoder  # noqa: E402
from qamro_cache.errors import QamroError  # noqa: E402

WAVE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LARGE = WAVE | {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


def save(folder: Path, model, extractor) -> Path:
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def wave_extractor(mask: bool):
    return transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=mask)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    t = transformers
    ast = t.ASTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    whisper = t.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=48, vocab_size=60,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    clap = t.ClapConfig(
        text_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 48, "vocab_size": 50_265, "pad_token_id": 1,
        },
        audio_config={
            "patch_embeds_hidden_size": 16, "hidden_size": 64, "depths": [1, 1, 1],
            "num_attention_heads": [2, 2, 2], "num_hidden_layers": 3,
        },
        projection_dim=24,
    )  # fmt: skip
    made = {
        "hubert": (t.HubertModel(t.HubertConfig(**WAVE)), wave_extractor(False)),
        "wavlm": (t.WavLMModel(t.WavLMConfig(**LARGE)), wave_extractor(True)),
        "wav2vec2": (t.Wav2Vec2Model(t.Wav2Vec2Config(**LARGE)), wave_extractor(True)),
        "ast": (t.ASTModel(ast), t.ASTFeatureExtractor()),
        "whisper": (t.WhisperModel(whisper), t.WhisperFeatureExtractor()),
        "clap": (t.ClapModel(clap), t.ClapFeatureExtractor(truncation="rand_trunc")),
    }
    found = {}
    for name, (model, extractor) in made.items():
        found[name] = save(root / name, model.eval(), extractor)
    t.RobertaTokenizerFast.from_pretrained(
        str(write_vocabulary(root / "synthetic-vocabulary"))
    ).save_pretrained(found["clap"])
    return found


def windows_for(encoder, seconds=(10.0, 3.3, 0.5)) -> tuple[torch.Tensor, torch.Tensor]:
    policy = encoder.spec.audio
    clips = [
        sound(i, int(s * policy.sample_rate), policy.sample_rate) for i, s in enumerate(seconds)
    ]
    padded = [np.pad(clip, (0, policy.window - len(clip))) for clip in clips]
    return torch.from_numpy(np.stack(padded)), torch.tensor([len(clip) for clip in clips])


@pytest.mark.parametrize("name", ["hubert", "wavlm", "wav2vec2"])
def test_wave_models(folders, name):
    encoder = load_encoder(f"hf:{folders[name]}")
    model = transformers.AutoModel.from_pretrained(folders[name]).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folders[name])
    windows, valid = windows_for(encoder)
    got = encoder.encode(windows, valid)["layers"]
    assert got.shape == (3, 3, 32)
    for row, (window, n) in enumerate(zip(windows, valid.tolist(), strict=True)):
        inputs = extractor(
            window[:n].numpy(), sampling_rate=16_000, padding="max_length", max_length=160_000,
            return_tensors="pt",
        )  # fmt: skip
        assert ("attention_mask" in inputs) == (name != "hubert")
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        frames = max(1, (n - 400) // 320 + 1)
        expected = torch.stack([state[0, :frames].mean(0) for state in states])
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=1e-4)


def test_ast(folders):
    encoder = load_encoder(f"hf:{folders['ast']}")
    model = transformers.ASTModel.from_pretrained(folders["ast"]).eval()
    extractor = transformers.ASTFeatureExtractor.from_pretrained(folders["ast"])
    windows, valid = windows_for(encoder)
    got = encoder.encode(windows, valid)["layers"]
    for row, n in enumerate(valid.tolist()):
        inputs = extractor(windows[row, :n].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        frames = (n - 400) // 160 + 1
        time = min(101, -(-frames // 10))
        keep = [0, 1] + [2 + band * 101 + t for band in range(12) for t in range(time)]
        expected = torch.stack([state[0, keep].mean(0) for state in states])
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=1e-4)


def test_whisper(folders):
    encoder = load_encoder(f"hf:{folders['whisper']}")
    assert encoder.spec.audio.window == 480_000
    model = transformers.WhisperModel.from_pretrained(folders["whisper"]).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folders["whisper"])
    windows, valid = windows_for(encoder, (30.0, 3.3))
    got = encoder.encode(windows, valid)["layers"]
    for row, n in enumerate(valid.tolist()):
        inputs = extractor(windows[row, :n].numpy(), sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            states = model.encoder(**inputs, output_hidden_states=True).hidden_states
        expected = torch.stack([state[0, : -(-n // 320)].mean(0) for state in states])
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=1e-4)


def test_clap_audio_and_text(folders):
    encoder = load_encoder(f"hf:{folders['clap']}")
    model = transformers.ClapModel.from_pretrained(folders["clap"]).eval()
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folders["clap"])
    windows, valid = windows_for(encoder)
    got = encoder.encode(windows, valid)
    prompts = ["slow piano", "fast drums"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clap"])
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        text = model.text_projection(model.text_model(**tokens).pooler_output)
        for row, n in enumerate(valid.tolist()):
            inputs = extractor(windows[row, :n].numpy(), sampling_rate=48_000, return_tensors="pt")
            pooled = model.audio_model(**inputs).pooler_output
            torch.testing.assert_close(got["pooled"][row], pooled[0], atol=1e-5, rtol=1e-4)
            out = model.get_audio_features(**inputs)
            out = out if isinstance(out, torch.Tensor) else out.pooler_output
            unit = torch.nn.functional.normalize(out, dim=-1)
            torch.testing.assert_close(got["embedding"][row], unit[0], atol=1e-5, rtol=1e-4)
    unit = torch.nn.functional.normalize(text, dim=-1)
    torch.testing.assert_close(encoder.encode_text(prompts)["text"], unit, atol=1e-5, rtol=1e-4)
    assert (
        load_encoder(f"hf:{folders['clap']}", EncoderOptions(tokenizer="none")).spec.text_features
        == {}
    )


def test_a_head_on_audio_and_prompts_predicts_from_files(folders, tmp_path):
    """Model and vocabulary in two folders, as for clap: every option must reach the encoder."""
    import shutil

    import pandas as pd
    import soundfile
    from click.testing import CliRunner
    from test_predict import SETTINGS, make_head

    from cli.extract import main as extract_command
    from cli.predict import main as predict_command
    from qamro_cache.cache.reader import open_cache
    from qamro_cache.heads.file import save_head
    from qamro_cache.heads.ood import reference_clips

    model, vocabulary = tmp_path / "model", tmp_path / "vocabulary"
    shutil.copytree(folders["clap"], model)
    vocabulary.mkdir()
    for file in [*model.glob("tokenizer*"), *model.glob("vocab*"), *model.glob("merges*")]:
        file.rename(vocabulary / file.name)
    shutil.copy(model / "config.json", vocabulary)
    for index in range(2):
        soundfile.write(tmp_path / f"{index}.wav", sound(index, 48_000), 48_000)
    manifest = tmp_path / "clips.csv"
    manifest.write_text("clip_id,path,prompt\na,0.wav,slow piano\nb,1.wav,fast drums\n")
    weights = ["--checkpoint", str(model), "--tokenizer", str(vocabulary)]

    def run(command, *arguments):
        done = CliRunner().invoke(command, [str(a) for a in arguments])
        return done.exit_code, done.output

    out = tmp_path / "emb.h5"
    extract = ["--manifest", manifest, "--encoder", "hf:tiny/clap", *weights, "--out", out]
    assert run(extract_command, *extract)[0] == 0
    head = make_head(replace(SETTINGS, inputs="concat"), 48, text_feature="text")
    rows = torch.randn(9, 24, generator=torch.Generator().manual_seed(0))
    head = replace(head, identities=(open_cache(out).identity,), reference=reference_clips(rows))
    save_head(tmp_path / "head.safetensors", head)
    predict = ["--head", tmp_path / "head.safetensors", "--out", tmp_path / "scores.csv"]
    assert run(predict_command, *predict, "--manifest", manifest, *weights)[0] == 0
    scores = pd.read_csv(tmp_path / "scores.csv")["prediction"]
    assert run(predict_command, *predict, "--cache", out)[0] == 0
    np.testing.assert_array_equal(scores, pd.read_csv(tmp_path / "scores.csv")["prediction"])
    assert scores.notna().all()
    code, said = run(predict_command, *predict, "--audio", tmp_path / "0.wav", *weights)
    assert code == 1
    assert "give --manifest clips.csv" in said
    assert run(predict_command, *predict, "--manifest", manifest, "--cache", out)[0] == 2
    code, said = run(predict_command, *predict, "--manifest", manifest, *weights[:2])
    assert code == 1
    assert "error: " in said


@pytest.mark.slow
def test_a_sweep_of_thirteen_layers_is_one_stack_a_shape(tmp_path, stacks):
    """A HuBERT of twelve layers, with random weights: one run, not thirteen."""
    import pandas as pd
    import soundfile

    from qamro_cache.experiments.ablate import ablate
    from qamro_cache.extraction.extract import extract

    torch.manual_seed(0)
    deep = transformers.HubertModel(transformers.HubertConfig(**WAVE | {"num_hidden_layers": 12}))
    folder = save(tmp_path / "random-weights", deep.eval(), wave_extractor(False))
    for k in range(9):
        soundfile.write(tmp_path / f"{k}.wav", sound(k, 16_000)[: 6000 + 500 * k], 16_000)
    table = {"clip_id": range(9), "path": [f"{k}.wav" for k in range(9)], "quality": range(9)}
    pd.DataFrame(table).to_csv(tmp_path / "clips.csv", index=False)
    extract(None, tmp_path / "emb.h5", f"hf:{folder}", manifest=tmp_path / "clips.csv")
    shapes = {"widths": [[8], [4]], "seeds": 2, "cv": "3", "epochs": 1}
    ablate(tmp_path / "emb.h5", tmp_path / "sweep", feature="layers[*]", **shapes)
    assert stacks == [13 * 2 * 3] * 2
    found = pd.read_csv(tmp_path / "sweep" / "results.csv")
    found = found[found["model"] == "head"]
    assert len(found[["feature", "widths"]].drop_duplicates()) == 13 * 2


def test_padding_rule_weights_and_configuration_are_in_the_identity(folders):
    specs = {name: load_encoder(f"hf:{folder}").spec for name, folder in folders.items()}
    assert specs["hubert"].options["padding"] == "zeros, seen by attention"
    assert specs["wavlm"].options["padding"] == "zeros, masked in attention"
    assert specs["clap"].options["padding"] == "repeatpad by the extractor"
    assert specs["hubert"].name == "hf:hubert"
    for spec in specs.values():
        assert len(spec.checkpoint_sha256) == 64
        assert len(spec.options["preprocessor_config_sha256"]) == 64


@pytest.mark.parametrize("name", ["hubert", "wavlm", "ast"])
def test_what_lies_in_the_padding_does_not_matter(folders, name):
    encoder = load_encoder(f"hf:{folders[name]}")
    windows, valid = windows_for(encoder)
    expected = encoder.encode(windows, valid)["layers"]
    windows[1, valid[1] :] = 0.5
    alone = encoder.encode(windows[1:2], valid[1:2])["layers"]
    torch.testing.assert_close(alone[0], expected[1], atol=1e-5, rtol=1e-5)


def test_the_local_hub_cache_is_used_and_the_revision_kept(folders, tmp_path, monkeypatch):
    import shutil

    constants = pytest.importorskip("huggingface_hub.constants")
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny-hubert"
    shutil.copytree(folders["hubert"], repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    spec = load_encoder("hf:someone/tiny-hubert").spec
    assert spec.name == "hf:someone/tiny-hubert"
    assert spec.options["revision"] == revision


def test_a_model_that_is_not_here_says_how_to_get_it():
    with pytest.raises(QamroError, match="run: hf download someone/nothing"):
        load_encoder("hf:someone/nothing")
    with pytest.raises(QamroError, match="needs NAME-or-folder"):
        load_encoder("hf")


def test_missing_tensors_and_unknown_kinds_are_refused(folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(folders["hubert"], broken)
    state = load_file(broken / "model.safetensors")
    del state["encoder.layers.1.attention.k_proj.weight"]
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QamroError, match=r"1 tensors missing \(encoder.layers.1.attention.k_proj"):
        load_encoder(f"hf:{broken}")
    fused = tmp_path / "fused"
    shutil.copytree(folders["clap"], fused)
    config = json.loads((fused / "config.json").read_text())
    config["audio_config"]["enable_fusion"] = True
    (fused / "config.json").write_text(json.dumps(config))
    with pytest.raises(QamroError):
        load_encoder(f"hf:{fused}")
    (fused / "config.json").unlink()
    with pytest.raises(QamroError, match=r"lacks config.json"):
        load_encoder(f"hf:{fused}")


# A model that brings its own code, laid out as MERT's repository is: two files, one importing the
# other, weights as pytorch_model.bin, audio at 24 kHz.
CONFIGURATION = """
from transformers import HubertConfig
class OwnConfig(HubertConfig):
    model_type = "own_model"
"""
MODELING = """
from transformers import HubertModel
from .configuration_own import OwnConfig
class OwnModel(HubertModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        print("own code runs")
"""


@pytest.fixture
def own(folders, tmp_path) -> Path:
    import shutil

    from safetensors.torch import load_file

    own = tmp_path / "own"
    shutil.copytree(folders["hubert"], own)
    torch.save(load_file(own / "model.safetensors"), own / "pytorch_model.bin")
    (own / "model.safetensors").unlink()
    (own / "configuration_own.py").write_text(CONFIGURATION)
    (own / "modeling_own.py").write_text(MODELING)
    config = json.loads((own / "config.json").read_text())
    config |= {
        "model_type": "own_model",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModel": "modeling_own.OwnModel",
        },
    }
    (own / "config.json").write_text(json.dumps(config))
    settings = json.loads((own / "preprocessor_config.json").read_text())
    settings["sampling_rate"] = 24_000
    (own / "preprocessor_config.json").write_text(json.dumps(settings))
    return own


def test_a_models_own_code_runs_only_when_allowed(folders, own, tmp_path, monkeypatch, capsys):
    with pytest.raises(QamroError, match=r"brings code of its own.*--allow-pickle"):
        load_encoder(f"hf:{own}")
    assert "own code runs" not in capsys.readouterr().out
    dynamic = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    encoder = load_encoder(f"hf:{own}", EncoderOptions(allow_pickle=True))
    assert "own code runs" in capsys.readouterr().out
    assert encoder.spec.options["model"] == "own_model"
    assert (encoder.spec.audio.sample_rate, encoder.spec.audio.window) == (24_000, 240_000)
    windows, valid = windows_for(encoder, (10.0, 3.3))
    got = encoder.encode(windows, valid)["layers"]
    model = transformers.HubertModel.from_pretrained(folders["hubert"]).eval()
    inputs = transformers.Wav2Vec2FeatureExtractor(sampling_rate=24_000, do_normalize=True)(
        windows[0].numpy(), sampling_rate=24_000, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(inputs["input_values"], output_hidden_states=True).hidden_states
    expected = torch.stack([state[0].mean(0) for state in states])
    torch.testing.assert_close(got[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not can_unshare(), reason="no network namespace can be made here")
def test_a_folder_is_extracted_without_a_network_at_once(folders, own, tmp_path):
    """Nor with HF_HUB_OFFLINE left unset; all other tests have it set (conftest.py)."""
    import soundfile

    soundfile.write(tmp_path / "a.wav", sound(0, 48_000), 48_000)
    (tmp_path / "clips.csv").write_text("clip_id,path,prompt\na,a.wav,slow piano\n")
    code = f"""
import itertools, os, socket
os.environ["HF_HOME"] = {str(tmp_path / "hub")!r}
import transformers
from click.testing import CliRunner
from qamro_cache_cli.extract import main
reached, count = [], itertools.count()
def look(*address, **options):
    reached.append(address)
    raise OSError("no network")
socket.getaddrinfo = look
def extract(folder, *more):
    out = {str(tmp_path)!r} + f"/{{next(count)}}.h5"
    command = ["--manifest", {str(tmp_path / "clips.csv")!r}, "--encoder", "hf:" + folder]
    done = CliRunner().invoke(main, [*command, "--out", out, *more])
    return done.exit_code, done.output
for folder in {[str(folders[name]) for name in ("hubert", "clap")]!r}:
    code, said = extract(folder)
    assert code == 0, said
code, said = extract({str(own)!r})
assert code == 1 and "--allow-pickle" in said, said
code, said = extract({str(own)!r}, "--allow-pickle")
assert code == 0, said
assert not reached, reached
"""
    without_network(code)
