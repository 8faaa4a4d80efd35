"""All that is to be shown on a GPU, in parts; `make gpu` runs it.

    make gpu                                      # by estimate twelve minutes on an H100
    make gpu SMALL=1                              # the same on tiny sizes, on a CPU too
    python benchmarks/gpu.py --parts grid,profile

A part is a process of its own with a time limit, and writes `<out>/<part>.json` as it goes. One
that is whole is not run again: what failed or ran out of time is, by the same command. Last comes a
table of goals beside what was measured. Needs torch, triton, numpy, scipy, h5py, pandas, for the
tests pytest, for the encoders transformers, and for sound files soundfile and soxr; no network.
"""

import argparse
import dataclasses
import datetime
import importlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: Epochs that are profiled, after those that warm up.
PROFILED = 12


class Part(NamedTuple):
    """A part: what it runs, on a GPU and small; ``OUT`` is its JSON."""

    name: str
    seconds: int
    command: Sequence[str]
    small: Sequence[str] = ()


PARTS = (
    Part("environment", 150, ("benchmarks/gpu.py", "--environment", "OUT")),
    Part("tests", 240, ("benchmarks/gpu.py", "--tests", "OUT")),
    Part(
        "grid", 150,
        ("benchmarks/grid.py", "--repeats", "2", "--usual", "1", "--out", "OUT"),
        ("--heads", "2", "--epochs", "2"),
    ),
    Part("profile", 60, ("benchmarks/gpu.py", "--profile", "OUT")),
    Part(
        "loss", 60, ("benchmarks/loss.py", "--seconds", ".1", "--out", "OUT"),
        ("--most", "100"),
    ),
    Part(
        "crossover", 40,
        ("benchmarks/loss.py", "--crossover", "--seconds", ".03", "--out", "OUT"),
        ("--most", "128"),
    ),
    Part("extract", 60, ("benchmarks/gpu.py", "--extract", "OUT")),
    Part(
        "encode", 400,
        ("benchmarks/encode.py", "--ours", "--seconds", "1", "--out", "OUT"),
        ("--batch-size", "1", "--seconds", ".1", "--only", "clap"),
    ),
)  # fmt: skip


def run_parts(parts: Sequence[Part], out: Path, small: bool) -> list[tuple[str, str]]:
    """Run what is not done; return each part's name and how it ended."""
    ended = []
    for part in parts:
        record, mark = out / f"{part.name}.json", out / f"{part.name}.done"
        if mark.exists():
            ended.append((part.name, "done before"))
            continue
        command = [record.as_posix() if word == "OUT" else word for word in part.command]
        command += part.small if small else ()
        if small and part.command[0] == "benchmarks/gpu.py":
            command.append("--small")
        print(f"== {part.name}: python {' '.join(command)}", flush=True)
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        start = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code = child.wait(part.seconds)
            end = "whole" if code == 0 else f"failed with {code}"
        except BaseException as error:
            # With all that it has begun, which would run beside the next part.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            end = f"stopped after {part.seconds} s"
        if end == "whole":
            mark.write_text("")
        ended.append((part.name, f"{end}, {time.perf_counter() - start:.1f} s"))
        print(f"== {part.name}: {ended[-1][1]}", flush=True)
    return ended


def header() -> dict[str, Any]:
    """Return what a record begins with."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "torch": torch.__version__,
    }


def environment(out: Path, small: bool) -> None:
    """Write versions, the device, and what the self-check says of each family of kernels."""
    import torch

    from qamro_cache import self_check

    versions = {"python": platform.python_version()}
    for name in ("triton", "numpy", "scipy", "h5py", "pandas", "transformers"):
        try:
            versions[name] = importlib.import_module(name).__version__
        except ImportError:
            versions[name] = "missing"
    record = header() | {"versions": versions}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        record |= {
            "capability": torch.cuda.get_device_capability(),
            "memory_gib": [free / 2**30, total / 2**30],
        }
        start = time.perf_counter()
        record["families"] = self_check.verdicts(torch.cuda.current_device())
        record["self_check_seconds"] = time.perf_counter() - start
    write(out, record)
    print(json.dumps(record, indent=1))


class Outcomes:
    """A plugin of pytest that writes how each test ended, the moment it does."""

    def __init__(self, out: Path) -> None:
        self.out, self.start = out, time.perf_counter()
        self.record = header() | {"passed": 0, "skipped": 0, "failed": {}, "seconds": {}}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add a step of a test; what fails in any of its steps has failed."""
        record, path = self.record, report.nodeid.partition("::")[0]
        seconds = record["seconds"]
        seconds[path] = round(seconds.get(path, 0) + report.duration, 3)
        if report.failed:
            record["failed"][report.nodeid] = report.longreprtext[-1500:]
        elif report.skipped:
            record["skipped"] += 1
        elif report.when == "call":
            record["passed"] += 1
        record["wall_seconds"] = round(time.perf_counter() - self.start, 1)
        write(self.out, record)


def tests(out: Path, small: bool) -> None:
    """Run the tests that need a GPU; write how many passed, and what failed."""
    import pytest

    options = ["-q", "-m", "gpu", "-rf", "--tb=short", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        options += ["-n", str(min(12, os.cpu_count() or 1))]
        # Else each of them starts as many compilers as there are processors.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    files = sorted((ROOT / "tests").glob("test_*.py"))
    files = [file for file in files if "mark.gpu" in file.read_text()]
    outcomes = Outcomes(out)
    write(out, outcomes.record)
    code = pytest.main([*options, *map(str, files)], plugins=[outcomes])
    sys.exit(code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED))


def profile(out: Path, small: bool) -> None:
    """Write, for each precision, which kernels take the time of a thousand heads' epochs."""
    import torch
    from torch.profiler import ProfilerActivity

    from benchmarks.grid import make_data, make_jobs
    from qamro_cache.training.fit import fit

    data, gpu = make_data(), torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    record: dict[str, Any] = header() | {"epochs": PROFILED, "rows": []}
    for heads in (2,) if small else (1000, 12):
        for precision in ("float32", "tf32", "bf16") if gpu else ("float32",):
            jobs, device = make_jobs(heads, PROFILED, 1), "cuda" if gpu else "cpu"

            def run(jobs: Any = jobs, device: str = device, precision: str = precision) -> None:
                for _ in fit(*data, jobs, device=device, precision=precision, weights=False):
                    pass

            run()
            with torch.profiler.profile(activities=activities) as profiler:
                run()
            kernels = [
                {
                    "name": event.key[:90],
                    "ms": round(
                        (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e3,
                        3,
                    ),
                    "count": event.count,
                }
                for event in profiler.key_averages()
                if not gpu or event.device_type == torch.profiler.DeviceType.CUDA
            ]  # fmt: skip
            kernels.sort(key=lambda kernel: -kernel["ms"])
            total = sum(kernel["ms"] for kernel in kernels)
            row = {"heads": heads, "precision": precision, "ms": total, "kernels": kernels[:15]}
            record["rows"].append(row)
            write(out, record)
            print(f"{heads} heads, {precision}: {total:.1f} ms of {PROFILED} epochs")
            for kernel in kernels[:15]:
                print(f"  {kernel['ms']:9.3f} ms {kernel['count']:6} {kernel['name']}")


def extract(out: Path, small: bool) -> None:
    """Write how fast CLAP extracts synthetic files, and how fast they are decoded alone."""
    from concurrent.futures import ThreadPoolExecutor

    try:
        import soundfile
        import soxr  # noqa: F401
    except ImportError as error:
        write(out, header() | {"skipped": str(error)})
        return
    import numpy as np
    import pandas as pd
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    from random_networks import make_clap

    from benchmarks.extract import RATE, SECONDS, NoEncoder
    from qamro_cache.cache.content import clip_table, no_labels
    from qamro_cache.datasets.records import Dataset
    from qamro_cache.extraction.extract import extract

    device = "cuda" if torch.cuda.is_available() else "cpu"
    count, seconds = (2, 1) if small else (480, SECONDS)
    noise = np.random.default_rng(0).standard_normal(RATE * (seconds + 12)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def make(k: int) -> dict[str, str]:
            path = folder / f"{k}.wav"
            soundfile.write(path, 0.1 * noise[1000 * k :][: RATE * seconds], RATE)
            return {"clip_id": str(k), "path": str(path), "prompt": ""}

        with ThreadPoolExecutor() as pool:
            clips = clip_table(pd.DataFrame(pool.map(make, range(count))))
        dataset = Dataset("noise", clips, no_labels(count), synthetic=True)
        encoder = make_clap(folder)
        encoder.network.to(device)
        encoder.device = torch.device(device)
        if device == "cuda":
            encoder.spec = dataclasses.replace(encoder.spec, precision="float16")
        record = header() | {
            "data": f"{count} synthetic WAV files of {seconds} s at {RATE} Hz; random weights",
            "processors": os.cpu_count(), "precision": encoder.spec.precision, "runs": [],
        }  # fmt: skip
        for run in range(2):
            for what, one in (("decoding", NoEncoder(encoder.spec.audio)), ("clap", encoder)):
                start = time.perf_counter()
                done = extract(dataset, folder / f"{what}{run}.h5", one, device=device)
                rate = done.windows / (time.perf_counter() - start)
                record["runs"].append({"what": what, "windows_per_second": rate})
                print(record["runs"][-1], flush=True)
                write(out, record)


class Goal(NamedTuple):
    """What is aimed at, on an H100; ``least``: or more, else or less."""

    what: str
    aim: float
    part: str
    find: Callable[[Any], float]
    least: bool = False


def of_grid(heads: int) -> Callable[[Any], float]:
    """The quickest precision whose mean SRCC is within .002 of float32's."""

    def find(record: Any) -> float:
        rows = [row for row in record["stacked"] if row["heads"] == heads and "seconds" in row]
        (exact,) = (row["srcc"] for row in rows if row["precision"] == "float32")
        return min(row["seconds"] for row in rows if (row["srcc"] or -1) > exact - 0.002)

    return find


def of_loss(form: str, heads: int, n: int) -> Callable[[Any], float]:
    """A form's milliseconds."""

    def find(record: Any) -> float:
        wanted = {"form": form, "heads": heads, "n": n}
        (row,) = (row for row in record["rows"] if wanted.items() <= row.items())
        return 1e3 * row["median_seconds"]

    return find


def of_encoder(name: str) -> Callable[[Any], float]:
    """An encoder's most windows a second in float16."""

    def find(record: Any) -> float:
        rows = (row for row in record["results"] if row.get("encoder") == name)
        return max(row["windows_per_second"] or 0 for row in rows if row["precision"] == "float16")

    return find


def of_extraction(record: Any) -> float:
    """The share of the decoding rate."""
    rates = [row["windows_per_second"] for row in record["runs"][-2:]]
    return float(rates[1] / rates[0])


GOALS = (
    Goal("tests that fail", 0, "tests", lambda record: len(record["failed"])),
    Goal("1,000 heads, s", 1.6, "grid", of_grid(1000)),
    Goal("12 heads, s", 0.08, "grid", of_grid(12)),
    Goal("fused loss of 1,000 x 256, ms", 0.08, "loss", of_loss("fused", 1000, 256)),
    Goal("sorted loss of 2^20, ms", 10, "loss", of_loss("sorted", 1, 1 << 20)),
    Goal("CLAP, windows/s", 5000, "encode", of_encoder("clap"), least=True),
    Goal("Audiobox, windows/s", 1800, "encode", of_encoder("audiobox"), least=True),
    Goal("CLAP from files, of the decoding rate", 0.9, "extract", of_extraction, least=True),
)


def table(out: Path) -> list[str]:
    """Return lines of each goal, what was measured, and the ratio; -- where that is not there."""
    lines = [f"{'goal':40} {'aim':>9} {'measured':>9} {'ratio':>6}"]
    for goal in GOALS:
        aim = f"{'>=' if goal.least else '<='} {goal.aim:g}"
        try:
            found = goal.find(json.loads((out / f"{goal.part}.json").read_text()))
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            lines.append(f"{goal.what:40} {aim:>9} {'--':>9} {'--':>6}")
            continue
        ratio = f"{found / goal.aim:.2f}" if goal.aim else "--"
        lines.append(f"{goal.what:40} {aim:>9} {found:9.3g} {ratio:>6}")
    return lines


def write(out: Path, record: dict[str, Any]) -> None:
    """Replace the record."""
    from qamro_cache.files import write_json

    write_json(out, record)


JOBS: dict[str, Callable[[Path, bool], None]] = {
    "environment": environment,
    "tests": tests,
    "profile": profile,
    "extract": extract,
}


def main() -> None:
    """Run the parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS))
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    for name, job in JOBS.items():
        parser.add_argument(f"--{name}", type=Path, help=(job.__doc__ or "").splitlines()[0])
    args = parser.parse_args()
    for name, job in JOBS.items():
        if getattr(args, name):
            sys.path.insert(0, str(ROOT))
            job(getattr(args, name), args.small)
            return
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.parts.split(",")
    ended = run_parts([part for part in PARTS if part.name in names], args.out, args.small)
    for name, end in ended:
        print(f"{name:12} {end}")
    print("\n".join(table(args.out)))
    sys.exit(any(end.startswith(("failed", "stopped")) for _, end in ended))


if __name__ == "__main__":
    main()
