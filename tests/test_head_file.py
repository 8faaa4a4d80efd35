"""The head file: what is read back is what was saved, or one clear line."""

import json
import random
import struct
from dataclasses import dataclass, field, fields, replace

import pytest
import torch

from qamro_cache.datasets.records import Axis
from qamro_cache.errors import QamroError
from qamro_cache.heads import record
from qamro_cache.heads.file import load_head, save_head
from qamro_cache.heads.head import AS_IT_IS, AxisHead, Ensemble, Head
from qamro_cache.heads.network import Architecture
from qamro_cache.heads.ood import reference_clips
from qamro_cache.heads.parameters import init_params
from qamro_cache.heads.trained import Trained
from qamro_cache.identity import AudioPolicy, EncoderSpec, identity_of

SPEC = EncoderSpec("mel", "1", AudioPolicy(16000, 16000, 16000), {"embedding": (6,)})


def make_head(architecture=None, row=(6,)):
    architecture = architecture or Architecture(widths=(4,))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 6, generator=generator)
    axes = tuple(
        AxisHead(
            Axis(name, 0.0, 100.0),
            seeds=(0, 1, 2),
            params=init_params(architecture, row, [0, 1, 2]),
            label_mean=50.0,
            label_std=20.0,
            row_mean=rows.mean(0),
            row_std=rows.std(0),
        )
        for name in ("quality", "interferer")
    )
    return Head(
        architecture,
        row,
        "embedding",
        "",
        (identity_of(SPEC),),
        axes,
        reference_clips(rows),
        {"dataset": "made up", "synthetic": True},
        Trained(
            torch.randint(0, 256, (30, 2, 16), generator=generator, dtype=torch.uint8),
            torch.randint(0, 2, (30, 2), generator=generator, dtype=torch.uint8),
            torch.arange(30, dtype=torch.uint8),
            torch.randint(0, 256, (435, 12), generator=generator, dtype=torch.uint8),
        ),
    )


def same(a: Head, b: Head) -> bool:
    def parts(head):
        plain = [
            head.architecture,
            head.row,
            head.feature,
            head.text_feature,
            list(head.identities),
        ]
        plain += [head.training, head.reference.threshold]
        tensors = [head.reference.clips, head.reference.mean, head.reference.std]
        plain.append(head.trained is None)
        known = [] if head.trained is None else vars(head.trained).values()
        plain.append([part is None for part in known])
        tensors += [part for part in known if part is not None]
        for one in head.axes:
            plain += [one.axis, one.seeds, one.label_mean, one.label_std, list(one.params)]
            tensors += [*one.params.values(), one.row_mean, one.row_std]
        return plain, tensors

    (plain, tensors), (other_plain, other_tensors) = parts(a), parts(b)
    return plain == other_plain and all(map(torch.equal, tensors, other_tensors))


@pytest.mark.parametrize(
    ("architecture", "row"),
    [
        (Architecture(widths=(4,)), (6,)),
        (Architecture(kind="linear", widths=()), (6,)),
        (Architecture(kind="ridge", widths=()), (6,)),
        (Architecture(widths=(5, 3), layer_norm=True, activation="gelu", output="bounded"), (6,)),
    ],
)
def test_a_head_comes_back_as_it_was_saved(tmp_path, architecture, row):
    head = make_head(architecture, row)
    save_head(tmp_path / "head.safetensors", head)
    assert same(load_head(tmp_path / "head.safetensors"), head)
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_the_same_head_is_the_same_bytes(tmp_path):
    path, found = tmp_path / "head.safetensors", set()
    for _ in range(20):
        save_head(path, make_head())
        found.add(path.read_bytes())
    assert len(found) == 1
    length = int.from_bytes(found.pop()[:8], "little")
    assert length % 8 == 0


def test_tensors_that_axes_or_members_share_are_saved_for_each(tmp_path):
    path, one = tmp_path / "head.safetensors", make_head()
    first, second = one.axes
    shared = replace(one, axes=(first, replace(second, params=first.params,
                                               row_mean=first.row_mean)))  # fmt: skip
    save_head(path, shared)
    assert same(load_head(path), shared)
    # A part of the other's, as those of a stack are.
    params = {name: value[:2] for name, value in first.params.items()}
    part = replace(one, axes=(first, replace(second, seeds=(0, 1), params=params)))
    save_head(path, part)
    assert same(load_head(path), part)
    member = replace(shared, trained=None)
    members, axes = (member, member), tuple(axis.axis for axis in one.axes)
    save_head(path, Ensemble(members, ((1, 1), (2, 1)), axes, {}, one.trained))
    back = load_head(path)
    assert all(same(found, member) for found in back.members)


@dataclass(frozen=True)
class Noted(Head):
    note: str | None = field(default=None, metadata=AS_IT_IS)


def test_a_field_is_one_declaration(tmp_path, monkeypatch):
    """Nothing else knows of it, and a head of before it still loads."""
    old, path = tmp_path / "old.safetensors", tmp_path / "head.safetensors"
    save_head(old, make_head())
    known = {one.name: getattr(make_head(), one.name) for one in fields(Head)}
    monkeypatch.setattr(record, "Head", Noted)
    save_head(path, Noted(**known, note="by hand"))
    assert (load_head(path).note, load_head(old).note) == ("by hand", None)
    path.write_bytes(rewritten(path.read_bytes(), lambda found, _: found.update(note=3)))
    with pytest.raises(QamroError, match="its note is of another type"):
        load_head(path)


def test_bounds_are_the_scale_in_the_heads_units():
    one = make_head().axes[0]
    assert one.bounds.tolist() == [[-2.5, 2.5]] * 3


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(QamroError, match="no such head file"):
        load_head(tmp_path / "head.safetensors")


def test_another_programs_safetensors_is_not_a_head(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(QamroError, match="not a head file"):
        load_head(tmp_path / "x.safetensors")


def test_a_newer_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("qamro_cache.heads.file.FORMAT_VERSION", 2)
    save_head(tmp_path / "head.safetensors", make_head())
    monkeypatch.undo()
    with pytest.raises(QamroError, match="head format '2' is not 1"):
        load_head(tmp_path / "head.safetensors")


def rewritten(raw: bytes, change) -> bytes:
    """The file with its record changed and its checksum made right again: a forgery."""
    import hashlib

    from safetensors.torch import load, save

    size = struct.unpack("<Q", raw[:8])[0]
    metadata = json.loads(raw[8 : 8 + size])["__metadata__"]
    record, tensors = json.loads(metadata["record"]), load(raw)
    change(record, tensors)
    metadata["record"] = json.dumps(record, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(metadata["record"].encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    metadata["sha256"] = digest.hexdigest()
    return save(tensors, metadata=metadata)


def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "change",
    [
        lambda record, tensors: tensors.update({"0/params/0.weight": torch.ones(3, 6, 5)}),
        lambda record, tensors: tensors.update({"0/params/0.weight": torch.ones(3, 6, 4).long()}),
        lambda record, tensors: tensors["0/params/0.bias"].fill_(torch.nan),
        lambda record, tensors: tensors.pop("1/params/0.bias"),
        lambda record, tensors: tensors["0/row_std"].zero_(),
        lambda record, tensors: tensors.update({"reference/clips": torch.ones(5)}),
        lambda record, tensors: record["axes"][0].update(label_std=0),
        lambda record, tensors: record["axes"][0].update(seeds=[]),
        lambda record, tensors: record["architecture"].update(kind="pickle"),
        lambda record, tensors: record["architecture"].update(widths=[10**12]),
        lambda record, tensors: record.update(row=[-1]),
        lambda record, tensors: record.update(axes=[[]]),
        lambda record, tensors: record.pop("identities"),
        lambda record, tensors: record.update(text_feature="nothing"),
        lambda record, tensors: record.update(context={"kind": "group"}),
        lambda record, tensors: record.update(feature="std(statistics"),
        lambda record, tensors: record.update(identities="mel"),
        lambda record, tensors: record.update(training=[]),
        lambda record, tensors: record["axes"][0].update(axis={"name": 1, "low": 0, "high": 1}),
        lambda record, tensors: record["axes"][0]["axis"].update(low="x"),
        lambda record, tensors: record["axes"][0]["axis"].update(high=None),
        lambda record, tensors: record["axes"][0]["axis"].update(low=200),
        lambda record, tensors: record["axes"][0]["axis"].update(high=10**400),
        lambda record, tensors: record["axes"][0]["axis"].update(guessed=1),
        lambda record, tensors: record["axes"][0].update(seeds=["1", "2", "3"]),
        lambda record, tensors: record["axes"][0].update(seeds=[0.0, 1.0, 2.0]),
        lambda record, tensors: record["axes"][0].update(label_mean="50"),
        lambda record, tensors: record["axes"][1]["axis"].update(name="quality"),
        lambda record, tensors: record.update(axes=[]),
        lambda record, tensors: record.update(axes=None),
        lambda record, tensors: record.update(more=1),
        lambda record, tensors: record.update(row=[6.0]),
        lambda record, tensors: record.update(row=[7]),
        lambda record, tensors: record.update(feature=["embedding"]),
        lambda record, tensors: record.update(feature="other"),
        lambda record, tensors: record.update(ood=True),
        lambda record, tensors: record["architecture"].update(widths=["4"]),
        lambda record, tensors: record["architecture"].update(layer_norm=0),
        lambda record, tensors: record["architecture"].update(more=0),
        lambda record, tensors: record["identities"][0].update(name=1),
        lambda record, tensors: record.update(training={"a": float("nan")}),
        lambda record, tensors: record.update(training=nested(20)),
        lambda record, tensors: tensors["reference/std"].neg_(),
        lambda record, tensors: tensors.update({"more": torch.ones(2)}),
        lambda record, tensors: tensors.pop("trained/axes"),
        lambda record, tensors: tensors.pop("trained/audio"),
        lambda record, tensors: tensors.pop("trained/sound"),
        lambda record, tensors: tensors.pop("trained/frames"),
        lambda record, tensors: tensors["trained/frames"].add_(1),
        lambda record, tensors: tensors.update(
            {"trained/sound": tensors["trained/sound"][:, :11].contiguous()}
        ),
        lambda record, tensors: tensors.update(
            {"trained/audio": tensors["trained/audio"][0, 0, 0]}
        ),
        lambda record, tensors: tensors.update(
            {"trained/axes": tensors["trained/axes"][:, :1].contiguous()}
        ),
        *(
            lambda record, tensors, dtype=dtype: tensors.update(
                {name: value.to(dtype) for name, value in tensors.items()}
            )
            for dtype in (torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int32)
        ),
        lambda record, tensors: tensors["0/row_std"].data.copy_(torch.zeros(6)),
    ],
)
def test_a_forged_head_is_refused(tmp_path, change):
    path = tmp_path / "head.safetensors"
    save_head(path, make_head())
    path.write_bytes(rewritten(path.read_bytes(), lambda record, tensors: None))
    assert same(load_head(path), make_head())
    path.write_bytes(rewritten(path.read_bytes(), change))
    with pytest.raises(QamroError, match="damaged or not a head file") as caught:
        load_head(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x02",
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 100_000_000) + b" " * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"{}xx",
        struct.pack("<Q", 60_000) + b"[" * 60_000,
        struct.pack("<Q", 4) + b"\xff\xfe\xff\xff",
        *(
            struct.pack("<Q", len(text)) + text
            for text in (
                b'{"a":1}',
                b'{"__metadata__":{"format":1}}',
                b'{"__metadata__":[]}',
                b'{"a":{"dtype":"F32","shape":[0,999999999999999],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":["F32"],"shape":[],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}',
                b'{"a":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}}',
                b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[36,0]}}',
            )
        ),
    ],
)
def test_a_header_is_checked_before_the_library_reads_it(tmp_path, head, monkeypatch):
    def never(*_):
        raise AssertionError

    monkeypatch.setattr("safetensors.torch.load", never)
    (tmp_path / "x.safetensors").write_bytes(head)
    with pytest.raises(QamroError, match="not a head file") as caught:
        load_head(tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_a_head_file_of_gigabytes_is_refused_at_once(tmp_path):
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(QamroError, match="more than a head can have"):
        load_head(tmp_path / "x.safetensors")


def test_thousands_of_damaged_heads_are_refused_or_right(tmp_path):
    path = tmp_path / "head.safetensors"
    head = make_head()
    save_head(path, head)
    raw = path.read_bytes()
    choose = random.Random(0)
    refusals = []
    for _ in range(3000):
        damaged = bytearray(raw)
        kind = choose.randrange(4)
        if kind == 0:
            damaged = damaged[: choose.randrange(len(raw))]
        elif kind == 1:
            for _ in range(choose.randrange(1, 9)):
                damaged[choose.randrange(len(raw))] = choose.randrange(256)
        elif kind == 2:
            damaged[choose.randrange(len(raw))] ^= 1 << choose.randrange(8)
        else:
            start = choose.randrange(len(raw))
            damaged[start:start] = choose.randbytes(choose.randrange(1, 64))
        path.write_bytes(damaged)
        try:
            assert same(load_head(path), head)
        except QamroError as error:
            refusals.append(str(error))
    assert len(refusals) > 2900
    assert not any("\n" in line for line in refusals)


def test_saving_over_a_head_keeps_the_old_one_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    save_head(path, make_head())
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(QamroError, match="cannot be written: No space left on device"):
        save_head(path, replace(make_head(), training={}))
    monkeypatch.undo()
    assert load_head(path).training["dataset"] == "made up"
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_a_head_that_notes_no_clips_is_one_still_and_a_runs_folder_stands_for_it(tmp_path):
    noted = make_head().trained
    for trained in (replace(noted, frames=None, sound=None), None):
        head = replace(make_head(), trained=trained)
        save_head(tmp_path / "head.safetensors", head)
        assert same(load_head(tmp_path), head)
    assert [len(one) for one in noted.fingerprints()] == [0, *(1 + 24 * k for k in range(1, 30))]
    assert {len(one) for one in replace(noted, frames=None).fingerprints()} == {0}
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(QamroError, match=r"head\.safetensors: no such head file"):
        load_head(tmp_path)


def test_a_clip_unlike_the_training_set_is_out_of_distribution():
    rows = torch.randn(500, 8, generator=torch.Generator().manual_seed(1)) * 3 + 7
    reference = reference_clips(rows)
    new = torch.randn(200, 8, generator=torch.Generator().manual_seed(2)) * 3 + 7
    assert reference.is_ood(new).double().mean() < 0.06
    assert reference.is_ood(new + 60).all()
