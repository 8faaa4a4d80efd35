"""One clip by every door: file, manifest, cache, Scorer, gradient, rewards, metric, export."""

import json
import re
import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from door_support import KINDS_OF_HEADS, make_head, other_kind

from qamro_cache import Scorer, export_head, open_cache, predict
from qamro_cache.errors import QamroError
from qamro_cache.heads.file import load_head
from qamro_cache.heads.head import members_of
from qamro_cache.integrations.program import HeadProgram
from qamro_cache.integrations.rewards import trl_reward, verl_reward

CASES = [
    pytest.param(("mel",), {}, id="mel"),
    *(pytest.param(("mel",), {"kind": kind}, id=kind) for kind in KINDS_OF_HEADS),
    pytest.param(("distillmos",), {}, id="distillmos", marks=pytest.mark.slow),
    pytest.param(
        ("distillmos", "mel"),
        {"feature": "distillmos.embedding + std(mel.statistics)"},
        id="both",
        marks=pytest.mark.slow,
    ),
]


def metric_of(scorer, rate):
    from qamro_cache.integrations.torchmetrics import QamroScore

    return QamroScore(scorer, rate)


def exported(run, cache, names, path):
    """What the head's program says of the clips' vectors; written to a file where one is named."""
    clips = cache.arrays(members_of(load_head(run))[0].feature, "quality")
    program = HeadProgram(load_head(run))
    if path is not None:
        export_head(run, path)
        program = torch.export.load(path).module()
    found, _ = program(clip=torch.from_numpy(clips.X))
    return pd.Series(found[:, 0].numpy(), list(clips.clip_ids)).loc[names].to_numpy()


@pytest.mark.parametrize(("encoders", "options"), CASES)
def test_one_clip_has_one_score_by_every_door(tmp_path, encoders, options):
    kind = options.get("kind")
    run = make_head(tmp_path, encoders, 6, feature=options.get("feature", ""))
    run = run if kind is None else other_kind(tmp_path, kind)
    audio = tmp_path / "audio"
    caches = [open_cache(tmp_path / f"{name}.h5") for name in encoders]
    expected = predict(run, caches).set_index("clip_id")
    assert expected["prediction"].notna().all()
    names = list(expected.index)
    paths = [audio / name for name in names]
    read = [soundfile.read(path, dtype="float32") for path in paths]
    scorer = Scorer.from_file(run / "head.safetensors", device="cpu")
    assert scorer.axes == ("quality",)

    def by(table):
        table = table.assign(clip_id=[Path(one).name for one in table["clip_id"]])
        return table.set_index("clip_id").loc[names, "prediction"].to_numpy()

    def each(one):
        return np.array([one(samples, rate) for samples, rate in read])

    doors = {
        "folder": by(predict(run, audio=audio)),
        "manifest": by(predict(run, manifest=audio / "clips.csv")),
        "files": by(scorer.score(paths)),
        "files as text": by(Scorer.from_pretrained(str(run), device="cpu").score(map(str, paths))),
        "stream": by(pd.concat(scorer.stream(iter(paths), block=5))),
        "arrays": each(lambda x, rate: scorer.score(x, rate)["prediction"][0]),
        "channels first": each(lambda x, rate: scorer.score([x.T], rate)["prediction"][0]),
        "tensors": each(lambda x, rate: scorer.tensor(torch.from_numpy(x), rate)[0, 0].item()),
        "dictionaries": by(
            scorer.score(
                [{"array": x, "sampling_rate": rate, "path": None} for x, rate in read]
            ).assign(clip_id=names)
        ),
        "trl": np.array(
            trl_reward(scorer, k=0)(
                prompts=["a sound"] * len(read),
                completions=[{"array": x, "sampling_rate": rate} for x, rate in read],
            )
        ),
        "verl": each(
            lambda x, rate: verl_reward(scorer, k=0, sample_rate=rate)(
                data_source="made up", solution_str=x, ground_truth="", extra_info={}
            )["score"]
        ),
    }
    if encoders == ("distillmos",):
        doors["gradient"] = each(
            lambda x, rate: scorer.tensor(torch.tensor(x, requires_grad=True), rate).item()
        )
    if len(encoders) == 1:
        # Writing it takes many seconds.
        file = None if encoders == ("mel",) else tmp_path / "head.pt2"
        doors["exported"] = exported(run, caches[0], names, file)
    if find_spec("torchmetrics") is not None:
        doors["metric"] = each(lambda x, rate: metric_of(scorer, rate)([x]).item())
    for name, found in doors.items():
        np.testing.assert_allclose(
            found, expected["prediction"], rtol=0, atol=1e-5 * (5 - 1), err_msg=name
        )
    # Not a constant, so that a door could tell wrong.
    assert expected["prediction"].std() > 1e-2
    # The rest of the row, too: the same sound is known as the one that was trained on.
    table = scorer.score(paths).assign(clip_id=names).set_index("clip_id")
    for column in ("std", "ood", "trained_on", "scale", "reason"):
        same = pd.testing.assert_series_equal
        same(table[column], expected[column], rtol=1e-4, check_exact=False)
    of_array = scorer.score(read[1][0], read[1][1]).iloc[0]
    assert of_array["trained_on"] == expected["trained_on"].iloc[1] == "yes"


def changed_byte(raw: bytes) -> bytes:
    return raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]


def with_record(raw: bytes, change) -> bytes:
    """Change the record, of an ensemble that of its last member."""
    from test_head_file import rewritten

    def last(record, tensors):
        change(record["members"][-1] if "members" in record else record, tensors)

    return rewritten(raw, last)


def billion(raw: bytes) -> bytes:
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    name = next(one for one in header if re.search(r"/params/(0\.weight|points)", one))
    header[name]["shape"] = [1 << 30, 1 << 10, 1 << 8]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def other_encoder(record, tensors):
    record["identities"][0]["version"] = "older"


DAMAGE = {
    "a changed byte": (changed_byte, "is damaged or not a head file"),
    "a billion elements": (billion, "is damaged or not a head file"),
    "a wrong width": (
        lambda raw: with_record(raw, lambda record, _: record.update(row=[7])),
        "rows .* are not those of feature",
    ),
    "another encoder": (
        lambda raw: with_record(raw, other_encoder),
        "with another encoder mel .*version: 'older' here, '.*' there; use the weights",
    ),
    "no file": (None, "no such head file"),
}


def doors():
    def metric(path):
        from qamro_cache.integrations.torchmetrics import QamroScore

        return QamroScore(path, 16000)

    return {
        "Scorer": Scorer.from_file,
        "from_pretrained": lambda path: Scorer.from_pretrained(str(path.parent)),
        "trl": trl_reward,
        "verl": verl_reward,
        "torchmetrics": metric,
        "export": lambda path: export_head(path, path.with_suffix(".pt2")),
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a head of every kind."""
    folder = tmp_path_factory.mktemp("doors")
    run = make_head(folder)
    return {"plain": run, **{kind: other_kind(folder, kind) for kind in KINDS_OF_HEADS}}


@pytest.mark.parametrize("kind", ["plain", *KINDS_OF_HEADS])
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("door", doors())
def test_a_head_that_cannot_be_used_is_one_line_by_every_door(runs, tmp_path, damage, door, kind):
    if door == "torchmetrics":
        pytest.importorskip("torchmetrics")
    if (door, damage) == ("export", "another encoder"):
        pytest.skip("an export runs no encoder; the program says whose vectors it takes")
    make, said = DAMAGE[damage]
    path = tmp_path / "head.safetensors"
    if make is not None:
        path.write_bytes(make((runs[kind] / "head.safetensors").read_bytes()))
    with pytest.raises(QamroError) as caught:
        doors()[door](path)
    assert re.search(said, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def flat(record):
    record["calibration"]["quality"]["slope"] = 0.0


def falling(record):
    record["calibration"]["quality"]["steps"] = [[1.0, 2.0], [3.0, 2.0]]


def elsewhere(record):
    record["calibration"] = {"noise": record["calibration"]["quality"]}


def never(record):
    record["times"][1] = [0]


def twice(record):
    record["members"].append(record["members"][0])


FORGED = {
    "to no scale": (flat, ("line", "steps", "ensemble"), "its calibration is to no scale"),
    "steps that fall": (falling, ("line", "steps", "ensemble"), "its calibration's steps fall"),
    "another axis": (elsewhere, ("line", "ensemble"), "calibrated on an axis 'noise' that it has"),
    "counts never": (never, ("ensemble",), "a member counts no whole number of times"),
    "one too many": (twice, ("ensemble",), "is damaged or not a head file"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_calibration_or_member_is_one_line_by_every_door(runs, tmp_path, forged):
    from test_head_file import rewritten

    change, kinds, said = FORGED[forged]
    for kind in kinds:
        raw = (runs[kind] / "head.safetensors").read_bytes()
        path = tmp_path / "head.safetensors"
        path.write_bytes(rewritten(raw, lambda record, _: change(record)))
        for name, door in doors().items():
            if name == "torchmetrics" and find_spec("torchmetrics") is None:
                continue
            with pytest.raises(QamroError, match=said) as caught:
                door(path)
            assert "\n" not in str(caught.value)
