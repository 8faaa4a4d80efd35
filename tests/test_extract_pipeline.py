"""A GPU's pipeline on the CPU, its streams and events replaced: what is waited for, and when."""

from contextlib import nullcontext

import pytest
import torch
from extraction_support import make_clips
from fake_encoder import FakeEncoder

from qamro_cache.errors import QamroError
from qamro_cache.extraction.pipeline import AHEAD, Pipeline
from qamro_cache.extraction.stats import Stats
from qamro_cache.extraction.units import plan_units, unit_size

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


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a pipeline over units of one batch; returns contents, what happened, and the stats."""
    clips = make_clips(tmp_path, UNITS * CLIPS, seconds=(0.3,)).clips
    units, paths = plan_units(clips, (), CLIPS), clips["path"].tolist()

    def run(gpu, **options):
        log, contents, stats = [], [], Stats(len(clips))
        pipeline = Pipeline(Encoder(log, **options), "cpu", CLIPS, 2, "float32", paths)
        pipeline._gpu = gpu

        class Event:
            def __init__(self, blocking):
                assert blocking, "waiting would take a processor"

            def record(self, stream):
                self.units = sum(entry.startswith("mark") for entry in log)
                log.append(f"mark {self.units}")

            def synchronize(self):
                log.append(f"wait {self.units}")

        def stream(found):
            log.append("aside")
            return nullcontext()

        def drain(*_):
            raise AssertionError("the GPU is drained")

        for name, stand_in in {
            "Event": Event,
            "Stream": lambda *_, **__: "aside",
            "current_stream": lambda _: "stream",
            "stream": stream,
            "synchronize": drain,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
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
    ends = [f"mark {k}" for k in range(UNITS)]
    for k in range(UNITS):
        waited = log.index(f"wait {k}")
        # Units are waited for in order, each with later ones given to the GPU already.
        assert sum(log.index(end) < waited for end in ends) == min(UNITS, k + 1 + AHEAD)
        # Prompts go beside them, and are not looked at before.
        assert log[waited + 1 : waited + 3] == ["aside", "prompts"]
    assert log.count("batch") == UNITS


def test_units_on_their_way_are_kept_when_a_later_one_fails(run):
    expected, _, _ = run(gpu=False)
    for gpu in (False, True):
        contents, _, problem = run(gpu=gpu, fails_at=4)
        assert problem == "one window of encoder fake does not fit"
        same(contents, expected[:4])


def test_a_refused_pinned_allocation_ends_nothing(run, monkeypatch):
    """Neither on the way there nor back; the copy then only takes longer."""
    expected, _, _ = run(gpu=False)
    real, refused = torch.empty, []

    def empty(*shape, pin_memory=False, **options):
        if pin_memory:
            refused.append(shape)
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **options)

    monkeypatch.setattr(torch, "empty", empty)
    contents, _, problem = run(gpu=True)
    assert not problem
    same(contents, expected)
    # Windows, their valid samples and both features of each batch.
    assert len(refused) == 4 * UNITS


def test_a_gpus_units_are_larger():
    assert (unit_size(8, "cpu"), unit_size(64, "cuda:1")) == (8, 256)
