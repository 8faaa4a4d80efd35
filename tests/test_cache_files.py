"""The cache file: what is written is read back, and nothing else is."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from forgery import forged_cache, index_of, patch, sealed, set_attribute

from qamro_cache.cache.container import open_container
from qamro_cache.cache.content import (
    CacheContent,
    Fingerprints,
    Header,
    clip_table,
    concatenate,
)
from qamro_cache.cache.reader import open_cache
from qamro_cache.cache.writer import write_cache
from qamro_cache.datasets.records import Axis, Labels, Ratings, labels_from_ratings
from qamro_cache.errors import QamroError
from qamro_cache.identity import AudioPolicy, EncoderSpec, identity_of, identity_sha256

SPEC = EncoderSpec(
    "fake",
    "1",
    AudioPolicy(16000, 16000, 16000),
    {"layers": (2, 3), "embedding": (4,)},
    {"text": (5,)},
)
AXES = (Axis("quality", 1.0, 5.0), Axis("élan", 0.0, 100.0, guessed=True))
LICENSES = {"data": "CC BY 4.0", "encoder": "MIT"}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def header(**changes: object) -> Header:
    return Header(
        identity_of(replace(SPEC, **changes)),
        "tiny",
        True,
        {"host": "here", "shard": "1/1"},
        LICENSES,
    )


def content(size: int = 6, seed: int = 0, prefix: str = "clip") -> CacheContent:
    """A small cache with a failed clip, several windows a clip, shared and absent prompts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4, size)
    status = np.full(size, "ok", object)
    reason = np.full(size, "", object)
    counts[1], status[1], reason[1] = 0, "unreadable", "not a sound file"
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    windows = int(offsets[-1])
    clips = clip_table(
        pd.DataFrame(
            {
                "clip_id": [f"{prefix}-{i}/ü" for i in range(size)],
                "path": [f"/sounds/{prefix}{i}.wav" for i in range(size)],
                "system": [f"S{i % 3}" for i in range(size)],
                "group": "",
                "split": ["train", "dev"] * (size // 2),
                "prompt": (["a dog barks", "", "ein Käfer summt"] * size)[:size],
                "status": status,
                "reason": reason,
                "audio_sha256": [f"{i:064x}" for i in range(size)],
                "samples_sha256": [f"{i:064x}" if i % 2 else "" for i in range(size)],
                "reference": [f"{prefix}-{i // 3 * 3}/ü" for i in range(size)],
                "source": ["2024", ""] * (size // 2),
                "peak": np.where(np.arange(size) % 3, 0.5 + np.arange(size), np.nan),
                "duration": rng.random(size) * 10,
                "audio_bytes": np.arange(size),
                "audio_mtime_ns": np.arange(size) * 10**18 // 7,
            }
        )
    )
    ratings = Ratings(
        np.repeat(np.arange(size, dtype=np.int32), 2),
        np.tile(np.array([0, 1], np.int16), size),
        rng.integers(-1, 3, 2 * size).astype(np.int32),
        rng.random(2 * size) * 4 + 1,
        ("ann", "bo", "çem"),
    )
    prompts = tuple(dict.fromkeys(p for p in clips["prompt"] if p))
    return CacheContent(
        clips,
        labels_from_ratings(AXES, size, ratings),
        offsets,
        rng.random(windows).astype(np.float32) * 0.9 + 0.1,
        np.arange(windows, dtype=np.int64) * 16000,
        {
            "layers": rng.standard_normal((windows, 2, 3)).astype(np.float32),
            "embedding": rng.standard_normal((windows, 4)).astype(np.float32),
        },
        prompts,
        {"text": rng.standard_normal((len(prompts), 5)).astype(np.float32)},
        Fingerprints(
            rng.integers(0, 256, 10 * size - 20).astype(np.uint8),
            # The first and the last clip have none.
            np.clip(np.arange(size + 1) * 10 - 10, 0, 10 * size - 20),
        ),
    )


def assert_labels_equal(ours: Labels, theirs: Labels) -> None:
    assert [vars(axis) for axis in ours.axes] == [vars(axis) for axis in theirs.axes]
    np.testing.assert_array_equal(ours.mean, theirs.mean)
    np.testing.assert_array_equal(ours.count, theirs.count)
    np.testing.assert_array_equal(ours.stderr, theirs.stderr)
    assert (ours.ratings is None) == (theirs.ratings is None)
    if ours.ratings is not None and theirs.ratings is not None:
        for name in ("clip", "axis", "rater", "score"):
            np.testing.assert_array_equal(
                getattr(ours.ratings, name), getattr(theirs.ratings, name)
            )
        assert ours.ratings.raters == theirs.ratings.raters


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = content()
    write_cache(tmp_path / "a.h5", written, header())
    cache = open_cache(tmp_path / "a.h5")
    pd.testing.assert_frame_equal(cache.clips, written.clips)
    assert_labels_equal(cache.labels, written.labels)
    assert cache.identity == identity_of(SPEC)
    assert cache.identity_sha256 == identity_sha256(identity_of(SPEC))
    assert (cache.dataset, cache.synthetic) == ("tiny", True)
    assert cache.provenance == {"host": "here", "shard": "1/1"}
    assert cache.licenses == LICENSES
    for ours, theirs in zip(
        vars(cache.read_fingerprints()).values(),
        vars(written.fingerprints).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert cache.count_known() == {
        "peak": 4, "fingerprint": 4, "samples_sha256": 3, "reference": 6, "source": 3,
    }  # fmt: skip
    # In the encoder's order: the first is the default one.
    assert list(cache.features.items()) == [("layers", (2, 3)), ("embedding", (4,))]
    assert cache.text_features == {"text": (5,)}
    read = cache.read("embedding")
    np.testing.assert_array_equal(read.windows.numpy(), written.features["embedding"])
    np.testing.assert_array_equal(read.offsets.numpy(), written.offsets)
    np.testing.assert_array_equal(read.weights.numpy(), written.weights)
    np.testing.assert_array_equal(cache.read().windows.numpy(), written.features["layers"])
    text = cache.read_text("text")
    assert text.index.tolist() == [0, -1, 1, 0, -1, 1]
    np.testing.assert_array_equal(text.embeddings.numpy(), written.text_features["text"])
    assert names_in(tmp_path) == ["a.h5"]


def test_plain_hdf5_tools_read_it_too(tmp_path: Path) -> None:
    written = content()
    write_cache(tmp_path / "a.h5", written, header())
    container = open_container(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        there = []
        file.visititems(lambda name, item: there.append(name) if hasattr(item, "shape") else None)
        assert sorted(there) == sorted(container.extents)
        for name in there:
            np.testing.assert_array_equal(file[name][()], container.load(name))
        np.testing.assert_array_equal(file["features/layers"][:], written.features["layers"])
        assert file["clips/clip_id"][0].decode() == "clip-0/ü"
        assert file["features/layers"].chunks is None
        assert file.attrs["identity_sha256"].decode() == identity_sha256(identity_of(SPEC))


def test_several_files_read_as_one(tmp_path: Path) -> None:
    parts = [content(6, 0, "a"), content(4, 1, "b")]
    for index, part in enumerate(parts):
        write_cache(tmp_path / f"{index}.h5", part, header())
    joined = concatenate(parts)
    write_cache(tmp_path / "joined.h5", joined, header())
    several = open_cache([tmp_path / "0.h5", tmp_path / "1.h5"])
    one = open_cache(tmp_path / "joined.h5")
    pd.testing.assert_frame_equal(several.clips, one.clips)
    assert_labels_equal(several.labels, one.labels)
    for name in ("layers", "embedding"):
        for ours, theirs in zip(several.read(name), one.read(name), strict=True):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(several.read_text(), one.read_text(), strict=True):
        assert torch.equal(ours, theirs)
    expected = np.concatenate([part.features["layers"] for part in parts])
    np.testing.assert_array_equal(one.read("layers").windows.numpy(), expected)


def test_files_of_two_identities_are_refused_with_the_difference(tmp_path: Path) -> None:
    write_cache(tmp_path / "a.h5", content(prefix="a"), header())
    write_cache(tmp_path / "b.h5", content(prefix="b"), header(checkpoint_sha256="f" * 64))
    with pytest.raises(QamroError, match=r"checkpoint_sha256: '' here, 'fff"):
        open_cache([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_one_clip_in_two_files_is_refused(tmp_path: Path) -> None:
    write_cache(tmp_path / "a.h5", content(seed=0), header())
    write_cache(tmp_path / "b.h5", content(seed=1), header())
    with pytest.raises(QamroError, match="more than one of the files"):
        open_cache([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_a_missing_file_and_a_missing_feature_are_named(tmp_path: Path) -> None:
    with pytest.raises(QamroError, match="there is no cache"):
        open_cache(tmp_path / "none.h5")
    write_cache(tmp_path / "a.h5", content(), header())
    with pytest.raises(QamroError, match="there are: layers, embedding"):
        open_cache(tmp_path / "a.h5").read("wave")


@pytest.mark.parametrize("what", ["features", "text_features"])
def test_features_other_than_promised_are_not_written(tmp_path: Path, what: str) -> None:
    good = content()
    bad = replace(good, **{what: {n: v[..., :-1] for n, v in getattr(good, what).items()}})
    with pytest.raises(QamroError, match="identity"):
        write_cache(tmp_path / "a.h5", bad, header())
    assert names_in(tmp_path) == []


def test_a_flipped_bit_in_a_feature_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    with h5py.File(path) as file:
        start = file["features/layers"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[start + 5] ^= 1
    path.write_bytes(data)
    cache = open_cache(path)
    cache.read("embedding")
    with pytest.raises(QamroError, match="checksum of features/layers"):
        cache.read("layers")


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    data = path.read_bytes()
    for size in (0, 10, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(QamroError):
            open_cache(path).read("layers")


def test_a_file_that_is_no_cache_is_named_in_our_words(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    whole = path.read_bytes()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.attrs["format"], file.attrs["format_version"] = np.bytes_("qamro-cache"), 1
    for name, begin, words in (
        ("text.h5", b"clip_id,path\n", r"is no cache; name a file that qamro-extract wrote"),
        ("short.h5", b"qamro-ca", "the head of the file is damaged; extract it again"),
        ("empty.h5", b"", "the file is empty; extract it again"),
        ("block.h5", whole[:300], "cut short: it has 300 bytes, its list of arrays 8192; extract"),
        ("cut.h5", whole[:-9], f"cut short: it has {len(whole) - 9} bytes of {len(whole)}; ext"),
        ("long.h5", whole + b"9", f"too long: it has {len(whole) + 1} bytes of {len(whole)}; ext"),
        ("head.h5", whole[:30] + bytes(40) + whole[70:], "its list of arrays is damaged; extract"),
        ("other.h5", None, r"is an HDF5 file, but no cache of format 2 \(another .*\); extract it"),
        ("one.h5", None, r"is an HDF5 file, but no cache of format 2 \(.*of an older format\); e"),
        ("new.h5", whole.replace(b"cache 2", b"cache 7"), r"newer version .*format 7, this one "
         r"reads 2\); update qamro-cache"),
    ):  # fmt: skip
        if begin is not None:
            (tmp_path / name).write_bytes(begin)
        with pytest.raises(QamroError, match=words) as caught:
            open_cache(tmp_path / name)
        message = str(caught.value)
        assert message.startswith(str(tmp_path / name))
        assert "h5py" not in message
        assert "synchronously" not in message
        assert "\n" not in message


def test_a_file_replaced_after_opening_is_an_error_not_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(seed=0), header())
    cache = open_cache(path)
    write_cache(path, content(seed=1), header())
    with pytest.raises(QamroError, match="replaced since it was opened"):
        cache.read()


def test_a_forked_child_reads_what_the_parent_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    cache = open_cache(path)
    child = os.fork()
    if child == 0:
        good = np.array_equal(cache.read().windows.numpy(), content().features["layers"])
        os._exit(0 if good else 1)
    for _ in range(20):
        cache.read()
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(seed=0), header())
    before = path.read_bytes()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_cache(path, content(seed=1), header())
    assert path.read_bytes() == before
    assert names_in(tmp_path) == ["a.h5"]


def _damage(path: Path, name: str, make: object) -> None:
    """Change the file with HDF5, and set the size in its index right again."""
    with h5py.File(path, "a") as file:
        if name in file:
            del file[name]
        make(file)  # type: ignore[operator]
    raw = path.read_bytes()
    block, index = index_of(raw)
    index["bytes"] = len(raw)
    path.write_bytes(sealed(index, bytearray(raw), block))


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((10, 2, 3), "f4")
    layout[:] = h5py.VirtualSource("gone.h5", "x", (10, 2, 3))
    file.create_virtual_dataset("features/layers", layout)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("features/layers", lambda f: f.__setitem__("features/layers", h5py.SoftLink("/x"))),
        (
            "features/layers",
            lambda f: f.__setitem__("features/layers", h5py.ExternalLink("/etc/x.h5", "/x")),
        ),
        (
            "features/embedding",
            lambda f: f.create_dataset("features/embedding", (3, 4), "f4", chunks=(1, 4)),
        ),
        (
            "features/embedding",
            lambda f: f.create_dataset(
                "features/embedding", (3, 4), "f4", external=[("/etc/passwd", 0, 48)]
            ),
        ),
        (
            "clips/path",
            lambda f: f.create_dataset("clips/path", (6,), h5py.string_dtype()),
        ),
        ("extra", lambda f: f.create_dataset("extra", (6,), h5py.ref_dtype)),
        ("extra", lambda f: f.create_dataset("extra", data=np.zeros(3))),
        ("features/layers", lambda f: f.create_dataset("features/layers", (10**12, 2, 3), "f4")),
        ("features/layers", _virtual),
    ],
)
def test_links_and_foreign_objects_are_refused(tmp_path: Path, name: str, make: object) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    _damage(path, name, make)
    with pytest.raises(QamroError, match="what lies between its arrays, is damaged"):
        open_cache(path)


def test_a_pipe_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    for path in (tmp_path / "pipe.h5", tmp_path):
        with pytest.raises(QamroError, match="not a regular file"):
            open_cache(path)


def test_an_empty_cache_and_one_of_failures_only(tmp_path: Path) -> None:
    for size in (0, 2):
        rows = clip_table(content().clips.iloc[1:2].iloc[[0] * size])
        rows["clip_id"] = [f"c{i}" for i in range(size)]
        rows["prompt"] = ""
        none = CacheContent(
            rows,
            labels_from_ratings(
                AXES, size, Ratings(*[np.zeros(0, t) for t in ("i4", "i2", "i4", "f8")])
            ),
            np.zeros(size + 1, np.int64),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            {"layers": np.zeros((0, 2, 3), "f4"), "embedding": np.zeros((0, 4), "f4")},
            (),
            {"text": np.zeros((0, 5), "f4")},
        )
        write_cache(tmp_path / "none.h5", none, header())
        cache = open_cache(tmp_path / "none.h5")
        assert len(cache.clips) == size
        assert cache.read().windows.shape == (0, 2, 3)


def test_what_is_not_known_has_a_value_of_its_own(tmp_path: Path) -> None:
    clips = content().clips[["clip_id", "prompt", "status"]]
    write_cache(
        tmp_path / "a.h5", replace(content(), clips=clip_table(clips), fingerprints=None), header()
    )
    cache = open_cache(tmp_path / "a.h5")
    assert cache.clips["peak"].isna().all()
    assert cache.clips["peak"].dtype == np.float32
    assert (cache.clips[["samples_sha256", "reference", "source"]] == "").all(axis=None)
    assert cache.read_fingerprints().offsets.tolist() == [0] * 7
    assert set(cache.count_known().values()) == {0}


def test_a_cache_that_is_open_for_writing_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    before = path.read_bytes()
    with h5py.File(path, "r+"), pytest.raises(QamroError, match="open for writing in another"):
        open_cache(path)
    assert path.read_bytes() == before
    open_cache(path)
    with h5py.File(path, "r"):
        open_cache(path)
    code = "import h5py, os, sys; file = h5py.File(sys.argv[1], 'r+'); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(QamroError, match="or was left so by one that was stopped"):
        open_cache(path)


def test_every_byte_outside_of_the_arrays_is_checked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    raw = path.read_bytes()
    block, index = index_of(raw)
    in_array = np.zeros(len(raw), bool)
    for dtype, shape, start, _ in index["arrays"].values():
        in_array[start : start + int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize] = True
    assert not in_array[:block].any()
    outside = np.flatnonzero(~in_array)
    assert len(outside) > block
    for place in [*range(64), *outside[64::23]]:
        data = bytearray(raw)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        with pytest.raises(QamroError) as caught:
            open_container(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("overlaps what lies before", lambda i, d: i["arrays"]["clips/path"].__setitem__(2, 600)),
        ("overlaps", lambda i, d: i["arrays"].update(x=i["arrays"]["features/layers"])),
        ("overlaps", lambda i, d: i["arrays"]["windows/start"].__setitem__(1, [10**12])),
        ("/extra is missing or", lambda i, d: i["arrays"].update(extra=["<f4", [0], 0, ""])),
        ("/clips/peak is missing or does", lambda i, d: i["arrays"].pop("clips/peak")),
        ("does not fit the rest", lambda i, d: i["arrays"]["clips/peak"].__setitem__(0, "<i4")),
        ("has a type no cache has", lambda i, d: i["arrays"]["clips/peak"].__setitem__(0, "|O")),
        ("has a type no cache has", lambda i, d: i["arrays"]["clips/peak"].__setitem__(0, [])),
        ("has a type no cache has", lambda i, d: i["arrays"]["clips/path"].__setitem__(0, "|S0")),
        ("has a type no cache", lambda i, d: i["arrays"]["clips/path"].__setitem__(0, "|S70000")),
        ("a shape or place", lambda i, d: i["arrays"]["clips/peak"].__setitem__(1, [-1])),
        ("a shape or place", lambda i, d: i["arrays"]["clips/peak"].__setitem__(1, [1e3])),
        ("a shape or place", lambda i, d: i["arrays"]["clips/peak"].__setitem__(2, True)),
        ("too many dimensions", lambda i, d: i["arrays"]["clips/peak"].__setitem__(1, [0] * 9)),
        ("which does not fit", lambda i, d: i["arrays"]["clips/peak"].__setitem__(1, [0, 10**15])),
        ("not described by four", lambda i, d: i["arrays"].update({"clips/peak": {}})),
        ("more than 4096 arrays", lambda i, d: i["arrays"].update(
            {f"x{k}": ["<f4", [0], 0, ""] for k in range(5000)})),
        ("parts of another type", lambda i, d: i.update(attributes=[])),
        ("other parts than", lambda i, d: i.update(more=1)),
        ("contradicts itself", lambda i, d: i["attributes"].update(more=1)),
        ("contradicts itself", lambda i, d: i["attributes"].update(synthetic=1)),
        ("nested too deep", lambda i, d: i["attributes"].update(provenance="[" * 3000)),
        ("nested too deep", lambda i, d: i["attributes"].update(
            provenance='{"a":' * 13 + "1" + "}" * 13)),
        ("NaN is no JSON", lambda i, d: i["attributes"].update(provenance='{"a":NaN}')),
        ("a license is no text", lambda i, d: set_attribute(i, "licenses", lambda r: {"data": 1})),
        ("its licenses is no record", lambda i, d: set_attribute(i, "licenses", lambda r: [])),
        ("other fields than", lambda i, d: set_attribute(i, "identity", lambda r: {**r, "x": 1})),
        ("other fields than", lambda i, d: set_attribute(i, "identity", lambda r: {"name": "x"})),
        ("text_length is of another", lambda i, d: set_attribute(
            i, "identity", lambda r: {**r, "text_length": "1"})),
        ("the shape of 'layers'", lambda i, d: set_attribute(
            i, "identity", lambda r: {**r, "features": {"layers": [2.0, 3]}})),
        ("more than 16777216 numbers", lambda i, d: set_attribute(
            i, "identity", lambda r: {**r, "features": {"layers": [10**9, 10**9]}})),
        ("names a value that is not there", lambda i, d: patch(i, d, "clips/status", np.int32(9))),
        ("names a prompt that is not", lambda i, d: patch(i, d, "prompts/clip", np.int64(9))),
        ("offsets go backwards", lambda i, d: patch(
            i, d, "windows/offsets", np.array([0, 10**12], np.int64))),
        ("offsets do not span", lambda i, d: patch(i, d, "fingerprints/offsets", np.int64(1))),
        ("weight is not in", lambda i, d: patch(i, d, "windows/weight", np.float32(np.nan))),
    ],
)  # fmt: skip
def test_a_forger_with_right_checksums_is_refused(
    tmp_path: Path, words: str, change: object
) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    raw = path.read_bytes()
    path.write_bytes(forged_cache(raw, lambda index, data: None))
    assert path.read_bytes() == raw
    path.write_bytes(forged_cache(raw, change))  # type: ignore[arg-type]
    with pytest.raises(QamroError, match=words) as caught:
        open_cache(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_index_has_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_cache(path, content(), header())
    raw = path.read_bytes()
    block, _ = index_of(raw)
    text = raw[58:block].rstrip(b"\n")
    for other in (
        text.replace(b'"bytes":', b'"bytes": '),
        text.replace(b'"bytes":', b'"bytes":1,"bytes":'),
        b"[" * 3000,
        b"1",
        b"",
        "é".encode(),
    ):
        path.write_bytes(sealed(other, bytearray(raw), block))
        with pytest.raises(QamroError):
            open_cache(path)


def test_a_text_too_long_for_a_reader_is_not_written(tmp_path: Path) -> None:
    clips = content().clips
    clips.loc[0, "path"] = "x" * 70_000
    with pytest.raises(QamroError, match="has 70000 bytes; a cache holds at most 65536"):
        write_cache(tmp_path / "a.h5", replace(content(), clips=clips), header())
    long = Header(identity_of(SPEC), "tiny", True, {"note": "x" * (5 << 20)})
    with pytest.raises(QamroError, match="its description takes"):
        write_cache(tmp_path / "a.h5", content(), long)
    assert names_in(tmp_path) == []
