"""--precision auto: what loses nothing is taken, and what is there is gone on with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from extraction_support import make_clips
from fake_encoder import SPEC, FakeEncoder
from qamro_cache_cli.extract import main as extract_command
from synthetic_cache import write_synthetic

from qamro_cache.cache.merge import merge_caches
from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders import registry
from qamro_cache.encoders.precision import choose_precision
from qamro_cache.encoders.protocol import EncoderInfo, EncoderOptions
from qamro_cache.errors import QamroError
from qamro_cache.experiments import precision, train
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.options import AblateOptions, TrainOptions
from qamro_cache.extraction.extract import extract

QUICK = {"epochs": 1, "widths": [4], "seeds": 1, "axis": "quality", "cv": "2"}


def test_half_precision_is_for_encoders_whose_error_was_tested():
    infos = {info.name: info for info in registry.list_encoders()}
    assert {name for name, info in infos.items() if info.half} == {"clap"}
    auto = EncoderOptions()
    for name, info in infos.items():
        half = "float16" if name == "clap" else "float32"
        assert choose_precision(info, auto, "cuda:1") == half
        assert choose_precision(info, auto, "cpu") == "float32"
        assert choose_precision(info, replace(auto, backend="upstream"), "cuda") == "float32"
        assert choose_precision(info, replace(auto, precision="tf32"), "cuda") == "tf32"


@pytest.fixture
def fake(monkeypatch):
    """An encoder ``half`` that computes in half precision where it is loaded for a GPU."""
    where = []

    def load(argument, options, device):
        where.append(options.precision)
        return FakeEncoder(replace(SPEC, name="half", precision=options.precision))

    info = EncoderInfo("half", "", "", "MIT", "", lambda a, o: (), load, takes=("precision",))
    infos = [replace(info, half=True), *registry.list_encoders()]
    monkeypatch.setattr(registry, "list_encoders", lambda: infos)
    return where


def precision_of(path: Path) -> str:
    return open_cache(path).identity["precision"]


def test_an_extraction_goes_on_in_the_precision_that_is_there(fake, tmp_path):
    clips = make_clips(tmp_path / "sounds", 6)
    out = tmp_path / "emb.h5"
    summary = extract(clips, out, "half", precision="float16")
    assert summary.record()["precision"] == "float16"
    # Elsewhere it would be float32, which is another identity.
    again = extract(clips, out, "half")
    assert again.precision == precision_of(out) == "float16"
    assert again.stats.clips_reused == 6
    assert extract(clips, tmp_path / "new.h5", "half").precision == "float32"
    with pytest.raises(QamroError, match=r"precision: 'float32' here, 'float16' there"):
        extract(clips, out, "half", precision="float32")
    # Nothing is taken from the file of another encoder.
    with pytest.raises(QamroError, match="name: 'mel' here"):
        extract(clips, out, "mel")


def test_a_stopped_extraction_goes_on_in_its_precision(fake, tmp_path, monkeypatch):
    clips, out = make_clips(tmp_path / "sounds", 6), tmp_path / "emb.h5"

    def stop(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qamro_cache.extraction.extract.publish", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(clips, out, "half", precision="float16", batch_size=2)
    assert not out.exists()
    assert extract(clips, out, "half", batch_size=2).precision == "float16"


def test_parts_of_one_set_can_be_merged(fake, tmp_path):
    clips, out = make_clips(tmp_path / "sounds", 8), tmp_path / "emb[1].h5"
    extract(clips, out, "half", precision="float16", shard="1/2", batch_size=2)
    extract(clips, out, "half", shard="2/2", batch_size=2)
    parts = sorted(tmp_path.glob("*-of-*.h5"))
    assert [precision_of(path) for path in parts] == ["float16", "float16"]
    assert merge_caches(parts, out) == 8
    # A part that is done anew fits the merge, though the other parts are gone.
    for path in parts:
        path.unlink()
    extract(clips, out, "half", shard="1/2", batch_size=2)
    assert precision_of(parts[0]) == "float16"


def test_an_encoder_without_a_choice_takes_float32_by_its_name(tmp_path):
    assert registry.load_encoder("mel", EncoderOptions(precision="float32")).spec.name == "mel"
    make_clips(tmp_path, 2)
    (tmp_path / "clips.csv").write_text("clip_id,path\na,clip0000.wav\nb,clip0001.wav\n")
    given = ["--manifest", str(tmp_path / "clips.csv"), "--encoder", "mel"]
    out = ["--out", str(tmp_path / "emb.h5")]
    done = CliRunner().invoke(extract_command, [*given, *out, "--device", "cpu"])
    assert "computed in float32" in done.stdout


@pytest.fixture
def emb(tmp_path):
    return write_synthetic(tmp_path / "emb.h5", clips=20)


def test_training_is_in_float32_and_says_so(emb, tmp_path):
    train.train(emb, tmp_path / "run", **QUICK)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["precision"] == config["asked"]["precision"] == "float32"
    assert "precision" not in config["given"]
    # The same run, whatever the precision is called.
    train.train(emb, tmp_path / "run", precision="float32", **QUICK)
    ablate(emb, tmp_path / "grid", **QUICK)
    assert json.loads((tmp_path / "grid" / "config.json").read_text())["precision"] == "float32"


def test_what_is_there_is_gone_on_with(emb, tmp_path, monkeypatch):
    """On a CPU TF32 cannot be; that it is refused shows that it was taken."""
    train.train(emb, tmp_path / "run", **QUICK)
    ablate(emb, tmp_path / "grid", **QUICK)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"precision": "float32"', '"precision": "tf32"'))
    with pytest.raises(QamroError, match="got 'tf32' on cpu"):
        train.train(emb, tmp_path / "run", device="cpu", **QUICK)
    train.train(emb, tmp_path / "run", overwrite=True, **QUICK)
    (tmp_path / "grid" / "done" / "precision").write_text("tf32")
    with pytest.raises(QamroError, match="got 'tf32' on cpu"):
        ablate(emb, tmp_path / "grid", device="cpu", lr=[1e-3], **QUICK)
    for odd in ("auto", "half", "\udc80"):
        (tmp_path / "grid" / "done" / "precision").write_bytes(odd.encode("utf-8", "surrogatepass"))
        config.write_text(json.dumps({"precision": [odd]}))
        assert precision._earlier(tmp_path / "run") == ""


def test_a_gpu_computes_in_tf32_only_where_it_has_it(monkeypatch, tmp_path, caplog):
    capability = [(9, 0)]
    monkeypatch.setattr(precision, "usable_device", lambda name: name or "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])

    def found(kind=TrainOptions, **options):
        return precision.decided(kind(**options), tmp_path, anew=False).precision

    with caplog.at_level("INFO", "qamro_cache"):
        assert found() == "tf32"
    assert caplog.messages == ["--precision auto: tf32"]
    assert found(device="cpu") == "float32"
    # What Ray's workers have is not known here.
    assert found(AblateOptions, ray="auto", gpus_per_worker=1.0) == "float32"
    capability[0] = (7, 5)
    assert found() == "float32"
    assert found(precision="bf16") == "bf16"
    capability[0] = (8, 0)
    assert found() == "tf32"
