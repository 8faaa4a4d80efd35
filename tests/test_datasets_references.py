"""The clip that a clip is compared with: named in a table or a description, kept in the cache."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from extraction_support import make_clips
from fake_encoder import FakeEncoder

from qamro_cache.cache.edit import relabel_cache
from qamro_cache.cache.reader import open_cache
from qamro_cache.datasets.manifest import load_manifest
from qamro_cache.datasets.registry import load_dataset
from qamro_cache.errors import QamroError
from qamro_cache.evaluation.judged import judged_of
from qamro_cache.extraction.extract import extract

HEAD = "path,reference,quality\n"


def manifest(folder: Path, rows: str, head: str = HEAD) -> Path:
    path = folder / "clips.csv"
    path.write_text(head + rows)
    return path


def test_a_manifest_names_references(tmp_path: Path) -> None:
    """A clip that others refer to is its own."""
    path = manifest(tmp_path, "a.wav,r,3\nb.wav, r ,2\nr.wav,,5\nc.wav,c,4\nd.wav,,1\n")
    clips = load_manifest(path).clips
    assert list(clips["reference"]) == ["r", "r", "r", "c", ""]
    own = judged_of(clips, np.zeros(len(clips))).reference
    assert own.tolist() == [False, False, True, True, False]
    assert "reference" not in [axis.name for axis in load_manifest(path).labels.axes]
    none = load_manifest(manifest(tmp_path, "a.wav,3\n", "path,quality\n")).clips
    assert list(none["reference"]) == [""]


def test_rows_of_one_clip_agree_on_its_reference(tmp_path: Path) -> None:
    path = manifest(
        tmp_path, "a.wav,ann,r,3\na.wav,bob,a,2\nr.wav,ann,r,5\n", "path,rater,reference,quality\n"
    )
    with pytest.raises(QamroError, match="row 3: clip 'a' has reference 'a' here and 'r' in row 2"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.wav,,3\nb.wav,nobody,2\n", "clip 'b' has the reference 'nobody', which is no clip"),
        ("a.wav,b,3\nb.wav,c,2\nc.wav,,1\n", "'a' has the reference 'b', which refers on to 'c'"),
        ("a.wav,b,3\nb.wav,a,2\n", "which refers on to"),
    ],
)
def test_one_line_errors(tmp_path: Path, rows: str, words: str) -> None:
    path = manifest(tmp_path, rows)
    with pytest.raises(QamroError, match=words) as error:
        load_manifest(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_cache_keeps_them_and_a_label_file_replaces_them(tmp_path: Path) -> None:
    noises = make_clips(tmp_path / "audio", 4)
    rows = "".join(
        f"audio/{name}.wav,{reference},3\n"
        for name, reference in zip(noises.clips["clip_id"], ("clip0003",) * 2 + ("",) * 2, strict=1)
    )
    extract(load_manifest(manifest(tmp_path, rows)), tmp_path / "emb.h5", FakeEncoder())
    found = open_cache(tmp_path / "emb.h5")
    assert found.clips["reference"].tolist() == ["clip0003", "clip0003", "", "clip0003"]
    assert found.count_known()["reference"] == 3
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,reference\nclip0000,clip0002\n")
    relabel_cache(tmp_path / "emb.h5", labels)
    found = open_cache(tmp_path / "emb.h5")
    assert found.clips["reference"].tolist() == ["clip0002", "clip0003", "clip0002", "clip0003"]
    np.testing.assert_array_equal(found.labels.mean, 3)
    # Either side may leave out a suffix, here as for the clips' own ids.
    labels.write_text("clip_id,reference\nclip0000.wav,clip0001.wav\nclip0001.wav,clip0001.wav\n")
    relabel_cache(tmp_path / "emb.h5", labels)
    found = open_cache(tmp_path / "emb.h5")
    assert found.clips["reference"].tolist()[:2] == ["clip0001", "clip0001"]
    labels.write_text("clip_id,reference\nclip0000,clip0009\n")
    with pytest.raises(QamroError, match="clip 'clip0000' has the reference"):
        relabel_cache(tmp_path / "emb.h5", labels)


@pytest.mark.parametrize(
    ("name", "system", "groups"),
    [("cvssp-separation", "ref", 12), ("codec-mushra", "Reference", 12)],
)
def test_real_sets_know_the_hidden_reference_of_each_group(
    shared_data: Path, name: str, system: str, groups: int
) -> None:
    clips: pd.DataFrame = load_dataset(name, shared_data / name).clips
    hidden = clips[clips["system"] == system].set_index("group")["clip_id"]
    assert len(hidden) == groups
    assert list(clips["reference"]) == list(hidden[clips["group"]])
