"""Ctrl-C and SIGKILL of real processes: what is said is true, and the same command goes on."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from synthetic_cache import write_synthetic

from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.records import Axis
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.experiments.ablate import ablate
from qamro_cache.extraction.extract import extract
from qamro_cache.heads.architecture import Architecture
from qamro_cache.heads.file import save_head
from qamro_cache.heads.head import AxisHead, Head
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import init_params
from qamro_cache.identity import identity_of
from qamro_cache.scoring.predict import predict

SLOW_SHARDS = """
from qamro_cache.extraction import shards
shards.SHARD_SECONDS = 0.02
add = shards.ShardWriter.add
def slow(self, content):
    add(self, content)
    time.sleep(1.5)
shards.ShardWriter.add = slow
"""
SLOW_EPOCHS = """
from qamro_cache.training import meter, stack
meter.KEEP_EVERY = 0.05
train = stack.Stack.train_epoch
def slow(self, batches):
    train(self, batches)
    time.sleep(0.02)
stack.Stack.train_epoch = slow
"""


def stopped(sign, name, patch, arguments, there):
    """Run a command until ``there()``, send it a signal, and return its code and last line."""
    # A job in the background of a script has SIGINT ignored, and its children too.
    first = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{first}\n{patch}\nfrom qamro_cache_cli.{name} import main\nmain()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not there():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(sign)
    _, said = child.communicate(timeout=240)
    assert "Traceback" not in said
    return child.returncode, said.strip().splitlines()[-1] if said.strip() else ""


def files(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Sixty noises, and a head with random weights on log-mel statistics."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for k in range(60):
        path = folder / "audio" / f"S{k % 3}" / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 8000), 16000)
    spec = load_encoder("mel").spec
    name, (width,) = next(iter(spec.features.items()))
    settings = Architecture(widths=(5,))
    one = AxisHead(
        Axis("quality", 0.0, 100.0),
        (4, 5),
        init_params(settings, (width,), [4, 5]),
        label_mean=40.0,
        label_std=15.0,
        row_mean=torch.zeros(width),
        row_std=torch.ones(width),
    )
    rows = torch.randn(30, width, generator=torch.Generator().manual_seed(0))
    head = Head(settings, (width,), name, "", (identity_of(spec),), (one,), reference_clips(rows))
    save_head(folder / "head.safetensors", replace(head, training={"synthetic": True}))
    return folder


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_prediction_goes_on_from_its_embeddings(sounds, tmp_path, sign):
    head, audio, out = sounds / "head.safetensors", sounds / "audio", tmp_path / "p.csv"

    def there():
        return list(tmp_path.glob("p.csv.emb-*.h5.parts/part-*.h5"))

    arguments = ["--head", head, "--audio", audio, "--out", out]
    code, line = stopped(sign, "predict", SLOW_SHARDS, arguments, there)
    if sign == signal.SIGINT:
        assert (code, line.split(";")[0]) == (1, "error: stopped")
        assert "embeddings of audio are kept beside --out" in line
    else:
        assert code == -sign
    assert there()
    assert not out.exists()
    # Another folder is another request: it begins anew, and leaves the first one's alone.
    predict(head, audio=audio / "S1", out=out)
    assert there()
    reused = []
    table = predict(
        head, audio=audio, out=out, progress=lambda stats: reused.append(stats.clips_reused)
    )
    assert 8 <= reused[-1] < 60
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    pd.testing.assert_frame_equal(table, predict(head, audio=audio))
    assert set(table["system"]) == {"S0", "S1", "S2"}


@pytest.mark.parametrize(
    "sign", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_grid_of_one_stack_goes_on_within_it(cache, tmp_path, sign, caplog):
    options = {"cv": "3", "seeds": 2, "epochs": 60, "widths": (8,), "lr": 0.01, "resamples": 0}
    words = [f"--{name}={'8' if name == 'widths' else value}" for name, value in options.items()]
    out = tmp_path / "grid"

    def there():
        return list(out.glob("begun/*.safetensors"))

    arguments = ["--cache", cache, "--out", out, "--device", "cpu", *words]
    code, line = stopped(sign, "ablate", SLOW_EPOCHS, arguments, there)
    if sign == signal.SIGINT:
        assert (code, line.split(";")[0]) == (1, "error: stopped")
        assert "heads are kept in --out, finished or part way" in line
    else:
        assert code == -sign
    assert there()
    assert not list(out.glob("done/*.safetensors")), "a stack was finished before the signal"
    with caplog.at_level("INFO", logger="qamro_cache"):
        ablate(cache, out, device="cpu", **options)
    assert "12 heads are part way" in caplog.text
    assert not (out / "begun").exists()
    ablate(cache, tmp_path / "whole", device="cpu", **options)
    for name in ("results.csv", "summary.csv", "best.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_damaged_part_of_a_grid_is_trained_again(cache, tmp_path, caplog, monkeypatch):
    """And one that was kept by another command is left for that."""
    monkeypatch.setattr("qamro_cache.training.meter.KEEP_EVERY", 0.0)
    monkeypatch.setattr("qamro_cache.experiments.begun.Begun.remove", lambda *_: None)
    options = {"cv": "2", "seeds": 1, "epochs": 3, "widths": (8,), "resamples": 0, "device": "cpu"}
    ablate(cache, tmp_path / "a", **options)
    (part,) = (tmp_path / "a" / "begun").iterdir()
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    for path in (tmp_path / "a" / "done").iterdir():
        path.unlink()
    before = (tmp_path / "a" / "results.csv").read_bytes()
    ablate(cache, tmp_path / "a", **options)
    assert "its checksum is wrong" in caplog.text
    assert (tmp_path / "a" / "results.csv").read_bytes() == before
    ablate(cache, tmp_path / "a", **{**options, "seeds": 2})
    assert len(list((tmp_path / "a" / "begun").iterdir())) == 2


def test_a_disk_that_does_not_take_a_part_does_not_end_the_training(
    cache, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("qamro_cache.training.meter.KEEP_EVERY", 0.0)
    (tmp_path / "begun").write_text("a file of this name")
    options = {"cv": "2", "seeds": 1, "epochs": 3, "widths": (8,), "resamples": 0, "device": "cpu"}
    ablate(cache, tmp_path, **options)
    assert caplog.text.count("the training goes on, without keeping") == 1
    assert (tmp_path / "results.csv").exists()


WAITS = """
from pathlib import Path
import {module}
def wait(*_, **__):
    Path({marker!r}).touch()
    time.sleep({seconds})
{module}.{name} = wait
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module", "function", "words"),
    [
        ("train", "qamro_cache.training.stack", "Stack.train_epoch", "files are whole or as"),
        ("evaluate", "qamro_cache.evaluation.score", "score", "nothing is written by this"),
        ("cache", "qamro_cache.cache.merge", "assemble", "files are whole or as they were"),
    ],
)
def test_a_command_that_keeps_nothing_says_so_and_leaves_everything_as_it_was(
    cache, tmp_path, name, module, function, words
):
    marker, out = tmp_path / "marker", tmp_path / "out"
    out.mkdir()
    rows = {"clip_id": [f"clip{k:03d}" for k in range(20)], "axis": "quality", "prediction": 3.0}
    pd.DataFrame(rows).to_csv(out / "p.csv", index=False)
    before = files(out)
    arguments = {
        "train": ["--cache", cache, "--out", out / "run", "--device", "cpu"],
        "evaluate": ["--predictions", out / "p.csv", "--labels", cache],
        "cache": ["merge", cache, "--out", out / "m.h5"],
    }[name]
    # Training ends after an epoch, the others in the middle of a call.
    seconds = 0.5 if name == "train" else 600
    patch = WAITS.format(module=module, name=function, marker=str(marker), seconds=seconds)
    code, line = stopped(signal.SIGINT, name, patch, arguments, marker.exists)
    assert code == 1
    assert line.startswith(f"error: stopped; {words}")
    assert files(out) == before


@pytest.mark.slow
def test_an_extraction_goes_on(sounds, tmp_path):
    manifest, out = tmp_path / "clips.csv", tmp_path / "emb.h5"
    paths = sorted(map(str, (sounds / "audio").rglob("*.wav")))
    pd.DataFrame({"path": paths, "clip_id": [Path(path).stem for path in paths], "q": 3}).to_csv(
        manifest, index=False
    )
    arguments = ["--manifest", manifest, "--encoder", "mel", "--out", out]

    def there():
        return list(tmp_path.glob("emb.h5.parts/part-*.h5"))

    code, line = stopped(signal.SIGINT, "extract", SLOW_SHARDS, arguments, there)
    assert (code, "finished clips are kept in OUT.parts" in line) == (1, True)
    assert not out.exists()
    kept = sum(len(open_cache(path).clips) for path in there())
    reused = []
    summary = extract(
        manifest=manifest, out=out, encoder="mel", progress=lambda s: reused.append(s.clips_reused)
    )
    assert reused[-1] == kept > 0
    assert summary.ok == 60


#: Ctrl-C while a library is loaded: some of them say then that they are not there.
STOPPED_LOADING = """
import sys
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "{name}":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
sys.argv[1:] = ["--cache", "a.h5", "--out", "run"]
from qamro_cache_cli.train import main
main()
"""


@pytest.mark.parametrize("name", ["click", "numpy", "pandas"])
def test_ctrl_c_while_a_command_is_loaded_is_one_line(name, tmp_path):
    code = STOPPED_LOADING.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()  # click ends the line of ^C
    assert line.startswith("error: stopped; ")


@pytest.mark.parametrize("chained", ["raise ImportError from stop", "raise ImportError"])
def test_a_library_that_takes_ctrl_c_for_its_absence(chained):
    code = f"""
import click
from qamro_cache_cli.common import OneLine
@click.command(cls=OneLine)
def main():
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as stop:
        {chained}
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stopped; ")
