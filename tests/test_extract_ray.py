"""Ray with two local workers: the content of a run in one process, whoever dies."""

import os
import signal
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from extraction_support import digests, make_clips
from fake_encoder import FakeEncoder

from qamro_cache.errors import QamroError
from qamro_cache.extraction.extract import extract, run_extraction
from qamro_cache.extraction.request import ExtractRequest
from qamro_cache.extraction.stats import Stats

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is an extra: pip install '.[ray]'"
)


def load_fake(pids: Path, device: str, deadly: str = "") -> FakeEncoder:
    """Make the encoder and leave its process' number behind."""
    (pids / str(os.getpid())).touch()
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return FakeEncoder(pause=0.1)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_work_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qamro_cache.extraction.ray_engine import RayEngine

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    noises = make_clips(tmp_path / "sounds", 600)
    extract(noises, tmp_path / "one.h5", FakeEncoder())
    pids = tmp_path / "pids"
    pids.mkdir()
    killed = []

    def kill_one(stats: Stats) -> None:
        if 64 <= stats.clips_done < 520 and not killed:
            killed.append(int(min(path.name for path in pids.iterdir())))
            os.kill(killed[0], signal.SIGKILL)

    request = ExtractRequest(ray="local", num_workers=2, workers=1, batch_size=8)
    engine = RayEngine(partial(load_fake, pids), request, noises.clips["path"].tolist())
    assert engine.spec == FakeEncoder().spec
    try:
        summary = run_extraction(noises, tmp_path / "emb.h5", engine, request, kill_one)
    finally:
        engine.close()
    assert killed
    assert len(list(pids.iterdir())) == 3
    assert summary.ok == 600
    assert summary.stats.encoders == 2
    assert digests(tmp_path / "emb.h5") == digests(tmp_path / "one.h5")


def test_what_cannot_be_done_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from qamro_cache.extraction.ray_engine import RayEngine

    def refuse(**_: object) -> None:
        raise ConnectionError("could not find a head node\nand much more")

    def make(gpus: float = 0.0) -> RayEngine:
        request = ExtractRequest(ray="far:1", num_workers=3, gpus_per_worker=gpus)
        return RayEngine(partial(load_fake, Path()), request, ["/a/b.wav"])

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(
        QamroError, match=r"^no Ray cluster at 'far:1' \(could not find a head node"
    ):
        make()
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    with pytest.raises(
        QamroError, match="3 workers with 1 GPUs each do not fit: the cluster has 2"
    ):
        make(1.0)
