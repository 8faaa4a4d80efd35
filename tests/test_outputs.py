"""What can fail is tried before the work: places that cannot be written to, and full disks."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import encoded, noise
from click.testing import CliRunner
from qamro_cache_cli.ablate import main as ablate
from qamro_cache_cli.cache import main as cache
from qamro_cache_cli.extract import main as extract
from qamro_cache_cli.predict import main as predict
from qamro_cache_cli.train import main as train_command
from synthetic_cache import write_synthetic

from qamro_cache import memory
from qamro_cache.audio.windows import plan_windows
from qamro_cache.cache.reader import open_cache
from qamro_cache.encoders.registry import load_encoder
from qamro_cache.errors import QamroError
from qamro_cache.experiments import train as training
from qamro_cache.extraction.estimate import feature_bytes, promised_windows
from qamro_cache.extraction.units import plan_units
from qamro_cache.files import try_place
from qamro_cache.reports.listening import listen

COMMANDS = {
    "extract": (extract, "--manifest clips.csv --encoder mel --out OUT"),
    "train": (train_command, "--cache emb.h5 --cv 3 --out OUT"),
    "ablate": (ablate, "--cache emb.h5 --cv 3 --seeds 1 --out OUT"),
    "predict": (predict, "--head emb.h5 --cache emb.h5 --out OUT"),
    "answer": (predict, "--head emb.h5 --cache emb.h5 --out p.csv --answer OUT"),
    "merge": (cache, "merge emb.h5 --out OUT"),
    "relabel": (cache, "relabel emb.h5 --labels labels.csv --out OUT"),
    "export": (cache, "export emb.h5 --out OUT"),
}
#: Where each command's work begins.
WORK = (
    "qamro_cache.extraction.extract.make_engine",
    "qamro_cache.experiments.train.run_train",
    "qamro_cache.experiments.ablate.run_ablate",
    "qamro_cache.scoring.predict.run_predict",
    "qamro_cache.cache.merge.assemble",
    "qamro_cache.cache.edit.assemble",
    "qamro_cache.cache.edit._write_arrays",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a cache and a set of three clips, in which the process is."""
    monkeypatch.chdir(tmp_path)
    write_synthetic(tmp_path / "emb.h5")
    Path("labels.csv").write_text("clip_id,quality\nclip000,50\nclip001,60\n")
    rows = ["clip_id,path"]
    for name, size in (("a", 16000), ("b", 1600000), ("c", 100)):
        Path(f"{name}.wav").write_bytes(encoded(noise(size), "wav"))
        rows.append(f"{name},{name}.wav")
    Path("clips.csv").write_text("\n".join(rows))
    return tmp_path


def refused(name: str, out: str) -> str:
    """Run a command that must refuse its output; return the line."""
    command, line = COMMANDS[name]
    done = CliRunner().invoke(command, [out if word == "OUT" else word for word in line.split()])
    assert done.exit_code == 1, done.output
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("INFO", "WARN"))]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: "), done.stderr
    assert "Errno" not in errors[0]
    return errors[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(name, folder, monkeypatch):
    def begun(*arguments, **options):
        raise AssertionError("the work has begun")

    for function in WORK:
        monkeypatch.setattr(function, begun)
    Path("file").write_text("mine")
    before = sorted(Path().iterdir())
    for out, words in (
        ("/sys/new/out", "Permission denied"),  # root's, too
        ("file/out", "file is a file, and"),
        ("file/new/out", "file is a file, and"),
        # Beside a grid's folder there is no temporary one, whose name is longer.
        *([] if name == "ablate" else [("n" * 250, "File name too long")]),
        ("n" * 300, "File name too long"),
    ):
        line = refused(name, out)
        assert words in line or ("Operation not permitted" in line and "/sys" in out), line
    assert sorted(Path().iterdir()) == before, "nothing is left behind"
    assert Path("file").read_text() == "mine"


def test_trying_a_place_makes_nothing(tmp_path):
    try_place(tmp_path / "a" / "b" / "c.csv")
    assert not list(tmp_path.iterdir())
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    if os.geteuid() == 0:  # whom a mode does not stop
        return
    with pytest.raises(QamroError, match="cannot be written: Permission denied"):
        try_place(closed / "c.csv")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_refused_with_the_estimate(name, folder, monkeypatch):
    # What an extraction and a merge will take is known a little later.
    later = ("make_engine", "assemble")
    for function in [name for name in WORK if not name.endswith(later)]:
        monkeypatch.setattr(function, lambda *a, **k: pytest.fail("the work has begun"))
    monkeypatch.setattr(
        "qamro_cache.extraction.engine.LocalEngine.run", lambda *a: pytest.fail("encoding")
    )
    monkeypatch.setattr(memory, "free_disk", lambda path: 100.0)
    line = refused(name, "new/out.h5")
    assert "of disk while it is made, and 0.1 kB are free there; make space" in line
    assert not list(folder.rglob("new/*"))


def test_training_counts_the_weights_it_will_keep(folder, monkeypatch):
    monkeypatch.setattr(memory, "free_disk", lambda path: 1e6)
    monkeypatch.setattr(training, "fit_all", lambda *a: pytest.fail("the work has begun"))
    cache = write_synthetic(folder / "emb.h5")
    with pytest.raises(QamroError, match=r"it would take about 6\.7 MB of disk while it is made"):
        training.train(cache, folder / "run", seeds=5, cv="3", widths=(200, 200), save_folds=True)
    with pytest.raises(pytest.fail.Exception, match="has begun"):
        training.train(cache, folder / "run", seeds=1, cv="3", widths=(200, 200))


def test_the_estimate_is_what_an_extraction_takes(folder):
    """Of a short clip, a long one and one that gives nothing."""
    arguments = ["--manifest", "clips.csv", "--encoder", "mel", "--out", "mel.h5"]
    done = CliRunner().invoke(extract, arguments)
    assert done.exit_code == 3, done.output  # c is too short for a window
    made = open_cache(folder / "mel.h5")
    units = plan_units(made.clips, (), 2)
    spec = load_encoder("mel").spec
    real = sum(made.read(name)[0].numpy().nbytes for name in made.features)
    assert feature_bytes(units, spec, "float32") == pytest.approx(real)
    assert feature_bytes(units, spec, "float16") == pytest.approx(real / 2)
    (folder / "c.wav").unlink()
    os.mkfifo(folder / "c.wav")  # whose writer never comes
    assert feature_bytes(units, spec, "float32") == pytest.approx(real)
    assert np.isnan(listen([str(folder / "c.wav")]).seconds).all()
    windows = np.diff(made.read("statistics")[1].numpy())
    (folder / "b.wav").unlink()
    share = windows[0] / windows.sum()
    assert feature_bytes(units, spec, "float32") == pytest.approx(real * share)


def test_a_flac_from_a_pipe_is_as_long_as_its_frames(tmp_path):
    """Its header names no length, which libsndfile takes for the longest that there is."""
    sound = 0.1 * np.random.default_rng(0).standard_normal(96000)
    soundfile.write(tmp_path / "a.flac", sound, 48000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "b.flac").write_bytes(data)
    (tmp_path / "c.flac").write_bytes(data + data)
    assert soundfile.info(tmp_path / "b.flac").frames > 1e18
    policy = load_encoder("mel").spec.audio
    paths = [str(tmp_path / f"{name}.flac") for name in "abc"]
    windows = [promised_windows(path, policy) for path in paths]
    assert windows == [len(plan_windows(size, policy)) for size in (96000, 96000, 192000)]
    assert listen(paths).seconds.tolist() == [2, 2, 4]


def test_free_disk_is_what_the_system_says(tmp_path):
    found = os.statvfs(tmp_path)
    free = memory.free_disk(tmp_path / "not" / "there" / "yet.h5")
    assert free == pytest.approx(found.f_bavail * found.f_frsize, rel=0.05)
    with pytest.raises(QamroError, match=r"about 10,000,000.0 GB of disk while it is made, and"):
        memory.refuse_disk(1e16, tmp_path / "emb.h5")
    memory.refuse_disk(0, tmp_path / "emb.h5")
