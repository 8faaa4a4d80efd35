"""What the ``datasets`` library really gives of sound, by every door that takes it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from door_support import make_head
from qamro_cache_cli.extract import main as extract_command
from qamro_cache_cli.predict import main as predict_command

from qamro_cache import Scorer, predict
from qamro_cache.errors import QamroError
from qamro_cache.integrations.rows import write_rows

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A head, the files, and what predict says of them."""
    folder = tmp_path_factory.mktemp("library")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        run = make_head(folder)
        files = sorted((folder / "audio").glob("*.wav"))
        wanted = predict(run, audio=folder / "audio")["prediction"].to_numpy()
        yield run, files, wanted


def audio(decode):
    return datasets.Audio(decode=decode)


def of_bytes(files, decode=False):
    rows = [{"bytes": one.read_bytes(), "path": one.name} for one in files]
    features = datasets.Features({"audio": audio(decode), "n": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"audio": rows, "n": range(len(rows))}, features=features)


def of_paths(files):
    found = datasets.Dataset.from_dict({"audio": list(map(str, files)), "n": range(len(files))})
    return found.cast_column("audio", audio(False))


def of_parquet(files, folder):
    of_bytes(files).to_parquet(folder / "set.parquet")
    back = datasets.Dataset.from_parquet(str(folder / "set.parquet"), cache_dir=str(folder))
    return back.cast_column("audio", audio(False))


SETS = {
    "paths": lambda files, _: of_paths(files),
    "bytes": lambda files, _: of_bytes(files),
    "parquet": of_parquet,
    "streamed": lambda files, _: of_bytes(files).to_iterable_dataset(),
}


@pytest.mark.parametrize("kind", SETS)
def test_rows_that_are_not_decoded(made, tmp_path, kind):
    run, files, wanted = made
    rows = SETS[kind](files, tmp_path)
    scorer = Scorer.from_file(run, device="cpu")
    found = scorer.score([row["audio"] for row in rows])
    np.testing.assert_array_equal(found["prediction"], wanted)
    assert (found["trained_on"] == "yes").all()
    manifest = write_rows(rows, tmp_path / "rows")
    np.testing.assert_array_equal(predict(run, manifest=manifest)["prediction"], wanted)
    if kind != "streamed":
        np.testing.assert_array_equal(scorer.score(rows["audio"])["prediction"], wanted)
    with pytest.raises(QamroError, match=r"got one of 'audio, n'; of a row give its column"):
        scorer.score(rows)


def test_rows_that_are_decoded(made, tmp_path):
    """Dictionaries of arrays, or from version 4 on decoders of torchcodec, as installed."""
    run, files, wanted = made
    rows = of_bytes(files, decode=True)
    try:
        rows[0]
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"datasets cannot decode here: {str(error)[:80]}")
    scorer = Scorer.from_file(run, device="cpu")
    found = scorer.score([row["audio"] for row in rows])
    np.testing.assert_allclose(found["prediction"], wanted, rtol=0, atol=1e-5 * 4)
    manifest = write_rows(rows, tmp_path / "rows")
    written = predict(run, manifest=manifest)["prediction"]
    np.testing.assert_allclose(written, wanted, rtol=0, atol=1e-5 * 4)


def test_the_commands_on_what_datasets_wrote(made, tmp_path):
    run, files, wanted = made
    of_bytes(files).to_parquet(tmp_path / "set.parquet")
    line = ["--manifest", str(tmp_path / "set.parquet")]
    refused = CliRunner().invoke(predict_command, ["--head", str(run), "--json", *line])
    assert refused.exit_code == 1
    assert "column 'audio' holds sound; write_rows of qamro_cache" in refused.stderr
    manifest = write_rows(of_parquet(files, tmp_path), tmp_path / "rows")
    out = tmp_path / "emb.h5"
    done = CliRunner().invoke(
        extract_command, ["--manifest", str(manifest), "--encoder", "mel", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(predict(run, out)["prediction"], wanted)
    assert Path(manifest).name == "rows.csv"
