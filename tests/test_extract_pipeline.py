"""A GPU's pipeline on the CPU, its streams and events replaced: what is waited for, and when."""

from contextlib import nullcontext

import pytest
import torch
from extraction_support import make_clips
from fake_encoder import FakeEncoder

from qamro_cache import devices
from qamro_cache.audio.shared import SharedSounds
from qamro_cache.errors import QamroError
from qamro_cache.extraction import pipeline as module
from qamro_cache.extraction.batches import Batcher
from qamro_cache.extraction.engine import LocalEngine
from qamro_cache.extraction.pipeline import Pipeline
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.transfer import AHEAD, LEAD, CudaTransfer
from qamro_cache.extraction.units import plan_units

UNITS, CLIPS = 6, 4


class Encoder(FakeEncoder):
    """Writes down when it is given a batch and prompts."""

    def __init__(self, log, fails_at=-1):
        super().__init__()
        self.log, self.fails_at = log, fails_at

    def encode(self, windows, valid):
        self.log.append("batch")
        if self.log.count("batch") - 1 == self.fails_at:
            raise QamroError("one window of encoder fake does not fit")
        return super().encode(windows, valid)

    def encode_text(self, prompts):
        self.log.append("prompts")
        return super().encode_text(prompts)


class Stream(str):
    def wait_stream(self, other):
        assert (self, other) == ("windows", "beside")


def stand_ins(log):
    """What of torch.cuda a transfer takes; it writes down what is marked and waited for."""

    class Event:
        def __init__(self, blocking):
            assert blocking, "waiting would take a processor"

        def record(self, stream):
            assert stream == "windows"
            self.number = sum(entry.startswith("mark") for entry in log)
            log.append(f"mark {self.number}")

        def synchronize(self):
            log.append(f"wait {self.number}")

    def stream(found):
        log.append(found)
        return nullcontext()

    def drain(*_):
        raise AssertionError("the GPU is drained")

    return {
        "Event": Event,
        "Stream": lambda *_, **__: Stream("beside"),
        "current_stream": lambda _: Stream("windows"),
        "stream": stream,
        "synchronize": drain,
    }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a pipeline over units of one batch; returns contents, what happened, and the stats."""
    clips = make_clips(tmp_path, UNITS * CLIPS, seconds=(0.3,)).clips
    units, paths = plan_units(clips, (), CLIPS), clips["path"].tolist()

    def run(gpu, sounds=None, **options):
        log, contents, stats = [], [], Stats(len(clips))
        for name, stand_in in stand_ins(log).items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda _, stream: log.append(f"kept for {stream}")
        )
        with monkeypatch.context() as patch:
            if gpu:
                patch.setattr(module, "Transfer", CudaTransfer)
            given = Encoder(log, **options), "cpu", CLIPS, 2, "float32", paths, sounds
            pipeline = Pipeline(*given)
        problem = ""
        try:
            for content in pipeline.run(units, stats):
                contents.append(content)
                done = stats.clips_done + stats.clips_begun
                assert CLIPS * len(contents) == stats.clips_done <= done <= len(clips)
        except QamroError as error:
            problem = str(error)
        return contents, log, problem

    return run


def same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.clips["clip_id"].tolist() == other.clips["clip_id"].tolist()
        assert one.features.keys() == other.features.keys()
        assert all((one.features[n] == other.features[n]).all() for n in one.features)
        assert (one.text_features["text"] == other.text_features["text"]).all()


def test_the_gpu_has_work_while_a_unit_is_put_together(run):
    expected, log, _ = run(gpu=False)
    assert log == ["batch", "prompts"] * UNITS
    contents, log, _ = run(gpu=True)
    same(contents, expected)
    # A mark for the batch before, and one for the unit: each is of one batch.
    for k in range(UNITS):
        batch = [i for i, entry in enumerate(log) if entry == "batch"][k]
        assert log[batch - 3 : batch] == ["beside", "kept for windows", "kept for windows"]
        if k >= LEAD:
            assert f"wait {2 * (k - LEAD)}" in log[:batch]
        assert f"wait {2 * (k - LEAD + 1)}" not in log[:batch]
        # Units are waited for in order, each with later ones given to the GPU already.
        waited = log.index(f"wait {2 * k + 1}")
        given = sum(log.index(f"mark {2 * unit + 1}") < waited for unit in range(UNITS))
        assert given == min(UNITS, k + 1 + AHEAD)
        # Prompts go beside them, and are not looked at before.
        assert log[waited + 1 : waited + 3] == ["beside", "prompts"]
    assert log.count("batch") == log.count("prompts") == UNITS


def test_units_on_their_way_are_kept_when_a_later_one_fails(run):
    expected, _, _ = run(gpu=False)
    for gpu in (False, True):
        contents, _, problem = run(gpu=gpu, fails_at=4)
        assert problem == "one window of encoder fake does not fit"
        same(contents, expected[:4])


def test_a_refused_pinned_allocation_ends_nothing(run, monkeypatch, caplog):
    """Neither on the way there nor back; the copy then only takes longer, which is said once."""
    caplog.set_level("INFO")
    devices._say_unpinned.cache_clear()
    expected, _, _ = run(gpu=False)
    real, refused = torch.empty, []

    def empty(*shape, pin_memory=False, **options):
        if pin_memory:
            refused.append(shape)
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    start = Batcher.start
    monkeypatch.setattr(
        Batcher, "start", lambda self, units: (setattr(self, "_pinned", True), start(self, units))
    )
    contents, _, problem = run(gpu=True)
    assert not problem
    same(contents, expected)
    # Windows, their valid samples and both features of each batch.
    assert len(refused) == 4 * UNITS
    assert [line for line in caplog.messages if "copies take longer" in line] == [
        "no memory that a GPU copies from by itself (CUDA error: out of memory); copies take longer"
    ]


def test_units_are_larger_on_a_gpu_but_not_where_encoders_share_what_is_decoded(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", stand_ins([])["Stream"])
    sounds = SharedSounds(2)
    cases = ("cpu", None), ("cuda", None), ("cuda", sounds)
    request = ExtractRequest()
    units = [LocalEngine(FakeEncoder(), device, request, ["a.wav"], s).unit for device, s in cases]
    assert units == [8, 256, 64]
    _, log, _ = run(gpu=True, sounds=sounds)
    for k in range(UNITS):  # the other encoder is not left behind
        assert log.index(f"wait {2 * k + 1}") == log.index(f"mark {2 * k + 1}") + 1
