"""A grid's heads spread over processes and Ray workers: the same bits, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from qamro_cache_cli.ablate import main
from synthetic_cache import write_synthetic

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments import missing
from qamro_cache.experiments.ablate import ablate
from qamro_cache.experiments.store import GRID_FILES, read_stacks
from qamro_cache.spread import RayOptions, RayPool, parse_shard
from qamro_cache.temporary import locked
from qamro_cache.training import chunks, meter
from qamro_cache.training.chunks import pieces
from qamro_cache.training.inputs import Features
from qamro_cache.training.recipe import Job, make_recipe

GRID = {
    "cv": "3", "seeds": 5, "axis": "quality", "alpha": [0.2], "optimizer": ["sgd", "adamw"],
    "epochs": 3, "batch_size": [16],
}  # fmt: skip
CLIPS = 39


@pytest.fixture(autouse=True, scope="module")
def small_stacks():
    """Stacks of four heads at most, which cut the five heads of a fold apart.

    A head that is alone of its fold in a stack ends in other last bits than beside others.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "CPU_CHUNK_BYTES", 1)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("cache") / "emb.h5")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The grid as one process trains it."""
    out = tmp_path_factory.mktemp("whole") / "grid"
    ablate(cache, out, **GRID)
    return out


def same(a: Path, b: Path) -> bool:
    """Whether the heads' results and the tables of two folders are the same bit for bit."""
    ours, theirs = (read_stacks(out / "done", CLIPS) for out in (a, b))
    assert ours
    assert ours.keys() == theirs.keys()
    heads = all(
        np.array_equal(one[name], theirs[key][name], equal_nan=True)
        for key, one in ours.items()
        for name in one
    )
    tables = [name for name in GRID_FILES if name != "study.csv"]
    return heads and all((a / name).read_bytes() == (b / name).read_bytes() for name in tables)


def test_pieces_are_all_jobs_once():
    views = [Features(torch.zeros(9, 4), torch.arange(10), torch.ones(9))] * 2
    recipes = [make_recipe({"optimizer": name}) for name in ("sgd", "adamw")]
    for heads in range(1, 20):
        jobs = [Job(recipes[k % 5 == 0], seed=k // 6, fold=k % 3, view=k % 2) for k in range(heads)]
        for count in (1, 2, 3, 7):
            cut = pieces(jobs, views, count)
            assert sorted(k for piece in cut for k in piece) == list(range(heads))
            for piece in cut:
                assert len({jobs[k].recipe.optimizer for k in piece}) == 1
            assert len(cut) <= 2 * count


def test_parts_come_to_the_whole_grid(cache, whole, tmp_path):
    out = tmp_path / "grid"
    first = ablate(cache, out, shard="2/3", **GRID)
    assert first == {"heads": 30, "left": 19}
    assert not (out / "best.json").exists()
    # The same part again trains nothing.
    before = {path: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    assert ablate(cache, out, shard="2/3", **GRID)["left"] == 19
    assert before == {path: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    assert ablate(cache, out, shard="1/3", **GRID)["left"] == 8
    best = ablate(cache, out, shard="3/3", **GRID)
    assert "axes" in best
    assert same(out, whole)
    # Any of them, and the whole command too, writes the tables again.
    (out / "results.csv").unlink()
    ablate(cache, out, shard="1/3", **GRID)
    assert same(out, whole)


def test_inner_folds_are_spread_too(cache, tmp_path):
    grid = {**GRID, "optimizer": ["sgd"], "nested": True}
    one, out = tmp_path / "one", tmp_path / "grid"
    ablate(cache, one, **grid)
    left = ablate(cache, out, shard="1/2", **grid)
    assert left["heads"] == 30
    assert 0 < left["left"] < 30
    ablate(cache, out, shard="2/2", **grid)
    assert same(out, one)


def test_a_part_waits_while_another_writes_the_tables(cache, whole, tmp_path, monkeypatch):
    out, held = tmp_path / "grid", []
    ablate(cache, out, shard="1/2", **GRID)
    lock = locked(out / "done")
    lock.__enter__()

    def waited(seconds):
        held.append(seconds)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(missing.time, "sleep", waited)
    ablate(cache, out, shard="2/2", **GRID)
    assert len(held) == 1
    assert same(out, whole)


def command(cache, out, *more):
    """The grid's command line, for a process of its own."""
    options = [
        f"--{name.replace('_', '-')}="
        f"{','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in GRID.items()
    ]
    code = "from qamro_cache_cli.ablate import main; main()"
    given = ["--cache", str(cache), "--out", str(out), *options, *more]
    return [sys.executable, "-c", code, *given]


def test_the_command_says_what_is_left(cache, tmp_path):
    arguments = command(cache, tmp_path / "grid", "--shard", "1/2")[3:]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "14 of 30 heads are done; the tables are written when the other parts" in said
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(done.stdout) == {"heads": 30, "left": 16}


@pytest.mark.slow
def test_a_killed_part_loses_its_stack_alone(cache, tmp_path):
    """Two processes at once, one of them killed in the middle, then started again."""
    one, out = tmp_path / "one", tmp_path / "grid"
    # Long enough to be in the middle of; of each batch size and optimizer a stack or more.
    more = ("--epochs", "30", "--seeds", "10", "--batch-size", "6,8,10,12")
    ended = subprocess.run(command(cache, one, *more), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    parts = [
        subprocess.Popen(command(cache, out, *more, "--shard", f"{k}/2"), stdout=subprocess.DEVNULL)
        for k in (1, 2)
    ]
    deadline = time.monotonic() + 300
    while not list((out / "done").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    parts[0].send_signal(signal.SIGKILL)
    assert [part.wait(300) for part in parts] == [-signal.SIGKILL, 0]
    assert not (out / "best.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    again = subprocess.run(command(cache, out, *more, "--shard", "1/2"), check=False)
    assert again.returncode == 0
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert same(out, one)


def test_what_does_not_go_together_is_one_line(cache, tmp_path):
    for options, words in (
        ({"shard": "3/2"}, "is not i/n with i from 1 to n"),
        ({"shard": "0/2"}, "is not i/n"),
        ({"shard": "1/" + "9" * 5000}, "is not i/n"),
        ({"num_workers": 2}, "need --ray ADDRESS"),
        ({"gpus_per_worker": 1.0}, "need --ray ADDRESS"),
        ({"ray": "local", "device": "cpu"}, "--device does not go with --ray"),
        ({"ray": "local", "onto": cache}, "do not go with --onto"),
        ({"shard": "1/2", "onto": cache}, "do not go with --onto"),
    ):
        with pytest.raises(OptionError, match=words):
            ablate(cache, tmp_path / "grid", **{**GRID, **options})
    assert parse_shard("all") is None
    assert parse_shard("2/3") == (2, 3)


class RayWithoutRay:
    """What `RayPool` asks of Ray, in this process: a worker can be told to die."""

    class exceptions:  # noqa: N801
        class RayError(Exception):
            pass

    def __init__(self):
        self.deaths, self.started, self.results = [], 0, {}

    def init(self, **options):
        self.address = options["address"]

    def shutdown(self):
        self.address = None

    def cluster_resources(self):
        return {"CPU": 2.0}

    def put(self, value):
        return value

    def remote(self, worker):
        ray = self

        class Actor:
            def __init__(self, argument):
                ray.started += 1
                self.worker, self.dead = worker(argument), False
                self.run = self

            def remote(self, *arguments):
                result = object()
                ray.results[result] = (self, arguments)
                return result

        class Remote:
            @staticmethod
            def options(**options):
                assert 1 <= options["num_cpus"] <= 2
                return type("Made", (), {"remote": staticmethod(Actor)})

        return Remote

    def wait(self, results, num_returns):
        return results[-1:], results[:-1]

    def get(self, result):
        actor, arguments = self.results.pop(result)
        if actor.dead or (self.deaths and self.deaths.pop()):
            actor.dead = True
            raise self.exceptions.RayError("gone")
        return actor.worker.run(*arguments)

    def kill(self, actor):
        assert actor.dead


@pytest.fixture
def ray(monkeypatch):
    stand_in = RayWithoutRay()
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    return stand_in


def test_workers_come_to_the_whole_grid(cache, whole, tmp_path, ray):
    ray.deaths = [False, True, False, False]
    seen = []
    out = tmp_path / "grid"
    best = ablate(
        cache, out, ray="local", num_workers=2, progress=lambda *now: seen.append(now), **GRID
    )
    assert "axes" in best
    assert same(out, whole)
    assert ray.started == 3
    assert ray.address is None
    # Head-epochs so far and in all, and heads that are left.
    assert seen[-1] == (90, 90, 0)
    # Nothing is missing: no worker is needed.
    ablate(cache, out, ray="local", **GRID)
    assert ray.started == 3


def test_ridge_heads_are_spread_too(cache, tmp_path, ray):
    grid = {**GRID, "head": ["mlp", "ridge"], "optimizer": ["sgd"]}
    one, out, parts, seen = (tmp_path / "one", tmp_path / "grid", tmp_path / "parts", [])
    ablate(cache, one, **grid)
    ablate(cache, out, ray="local", progress=lambda *now: seen.append(now), **grid)
    # Five seeds of three folds in three epochs, and a solution a fold.
    assert seen[-1] == (48, 48, 0)
    assert same(out, one)
    for shard in ("1/2", "2/2"):
        ablate(cache, parts, shard=shard, **grid)
    assert same(parts, one)


def test_a_piece_that_kills_every_worker_ends_the_grid(cache, tmp_path, ray):
    ray.deaths = [True] * 3
    with pytest.raises(QamroError, match=r"died 3 times on a piece of 7 heads: look for too"):
        ablate(cache, tmp_path / "grid", ray="local", **GRID)


def test_what_a_worker_refuses_is_one_line(cache, tmp_path, ray):
    with pytest.raises(QamroError, match="precision must be float32"):
        ablate(cache, tmp_path / "grid", ray="local", precision="tf32", **GRID)


def test_a_begun_stack_is_gone_on_with_by_a_worker(cache, whole, tmp_path, ray, monkeypatch):
    out = tmp_path / "grid"
    monkeypatch.setattr(meter, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(meter, "KEEP_SHARE", 1e9)

    def stop(done, total, running):
        if done > 12 and list((out / "begun").glob("*.safetensors")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(cache, out, progress=stop, **GRID)
    begun = list((out / "begun").iterdir())
    assert begun
    ablate(cache, out, ray="local", num_workers=2, **GRID)
    assert same(out, whole)
    assert not (out / "begun").exists()


class Worker(missing.TrainingWorker):
    def __init__(self, settings):
        super().__init__(settings)
        Path(os.environ["QAMRO_TEST_PIDS"], str(os.getpid())).touch()


@pytest.mark.slow
def test_a_killed_worker_loses_its_piece_alone(cache, whole, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
    pids, out, killed = tmp_path / "pids", tmp_path / "grid", []
    pids.mkdir()
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.setenv("QAMRO_TEST_PIDS", str(pids))
    monkeypatch.setattr(missing, "TrainingWorker", Worker)
    real = missing.keep_stack

    def keep(*given):
        real(*given)
        if not killed:
            killed.append(int(min(path.name for path in pids.iterdir())))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(missing, "keep_stack", keep)
    ablate(cache, out, ray="local", num_workers=2, **GRID)
    assert killed
    assert len(list(pids.iterdir())) == 3
    assert same(out, whole)


def test_a_cluster_that_is_too_small_is_one_line(ray):
    with pytest.raises(QamroError, match=r"2 workers with 1 GPUs each do not fit: .* has 0"):
        RayPool(RayOptions(ray="local", num_workers=2, gpus_per_worker=1))
    assert ray.address is None
