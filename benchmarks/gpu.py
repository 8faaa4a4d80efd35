"""All that is to be shown on a GPU, in parts; `make gpu` runs it.

    python benchmarks/gpu.py                      # at most ten minutes on an H100
    python benchmarks/gpu.py --small              # the same on tiny sizes, on a CPU too
    python benchmarks/gpu.py --parts grid,profile

A part is a process of its own with a time limit, and writes `<out>/<part>.json` as it goes. One
that is whole is not run again: what failed or ran out of time is, by the same command. Needs torch,
triton, numpy, scipy, h5py, pandas and, for the tests, pytest; no network.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
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
    Part("environment", 200, ("benchmarks/gpu.py", "--environment", "OUT")),
    Part("tests", 200, ("benchmarks/gpu.py", "--tests", "OUT")),
    Part(
        "grid", 200,
        ("benchmarks/grid.py", "--repeats", "2", "--usual", "1", "--out", "OUT"),
        ("--heads", "2", "--epochs", "2"),
    ),
    Part("profile", 120, ("benchmarks/gpu.py", "--profile", "OUT")),
    Part(
        "loss", 90, ("benchmarks/loss.py", "--seconds", ".1", "--out", "OUT"),
        ("--most", "100"),
    ),
    Part(
        "crossover", 90,
        ("benchmarks/loss.py", "--crossover", "--seconds", ".03", "--out", "OUT"),
        ("--most", "100"),
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
        try:
            code = subprocess.run(
                [sys.executable, *command], cwd=ROOT, env=environment, timeout=part.seconds,
                check=False,
            ).returncode  # fmt: skip
            end = "whole" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
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


def tests(out: Path, small: bool) -> None:
    """Run the tests that need a GPU; write how many passed, and what failed."""
    xml = out.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rf", "--tb=short"]
    command += ["-p", "no:cacheprovider", f"--junit-xml={xml}"]
    files = ["loss_fused", "train_kernels", "train_gpu", "encoder_gpu"]
    try:
        importlib.import_module("xdist")
        command += ["-n", str(min(6, os.cpu_count() or 1))]
    except ImportError:
        pass
    code = subprocess.run(
        [*command, *(f"tests/test_{name}.py" for name in files)], cwd=ROOT, check=False
    ).returncode
    suites = ET.parse(xml).getroot().iter("testcase")
    record = header() | {"exit": code, "passed": 0, "skipped": 0, "failed": {}, "slowest": []}
    times = []
    for case in suites:
        name = f"{case.get('classname')}::{case.get('name')}"
        times.append((float(case.get("time", "0")), name))
        problem = next((x for x in case if x.tag in ("failure", "error")), None)
        if problem is not None:
            record["failed"][name] = (problem.text or problem.get("message") or "")[-1500:]
        elif any(x.tag == "skipped" for x in case):
            record["skipped"] += 1
        else:
            record["passed"] += 1
    record["slowest"] = sorted(times)[-8:]
    write(out, record)
    # With no GPU every one is skipped: exit 0.
    sys.exit(code)


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
                if not gpu or event.device_type == torch.autograd.DeviceType.CUDA
            ]  # fmt: skip
            kernels.sort(key=lambda kernel: -kernel["ms"])
            total = sum(kernel["ms"] for kernel in kernels)
            row = {"heads": heads, "precision": precision, "ms": total, "kernels": kernels[:15]}
            record["rows"].append(row)
            write(out, record)
            print(f"{heads} heads, {precision}: {total:.1f} ms of {PROFILED} epochs")
            for kernel in kernels[:15]:
                print(f"  {kernel['ms']:9.3f} ms {kernel['count']:6} {kernel['name']}")


def write(out: Path, record: dict[str, Any]) -> None:
    """Replace the record."""
    from qamro_cache.files import write_json

    write_json(out, record)


JOBS: dict[str, Callable[[Path, bool], None]] = {
    "environment": environment,
    "tests": tests,
    "profile": profile,
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
    sys.exit(any(end.startswith(("failed", "stopped")) for _, end in ended))


if __name__ == "__main__":
    main()
