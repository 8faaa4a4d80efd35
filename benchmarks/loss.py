"""Time and peak memory of the loss and its gradient, in every form.

    python benchmarks/loss.py                 # the table, and benchmarks/results/loss-<device>.json
    python benchmarks/loss.py --crossover     # pairs (or fused) against sorted, by N and heads

`loop` is the double loop over tensor elements that published code uses, `dense` the
[heads, N, N] pair matrix; both are differentiated by autograd. Their cost grows so fast that they
are measured only where a step stays within some seconds and the memory of a small machine. `fused`
is timed on a GPU as the trainer runs it, in a CUDA graph. The file is written after every case, so
that one that fails loses no other; where memory runs out a case has no figures.
"""

import argparse
import ctypes
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from qamro_cache.files import write_json
from qamro_cache.losses.qamro import qamro_value_and_grad

ALPHA, BETA = 0.2, 7.0
SIZES = [16, 64, 256, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20]
HEADS = [1, 10, 60, 100, 1000]
BATCH = 256
REPLAYED = 10


def loop(pred: Tensor, target: Tensor) -> Tensor:
    """The published style: a Python loop over all pairs of one row."""
    quality = (target - target.min()) / (target.max() - target.min())
    total, count = pred.new_zeros(()), 0
    row = pred[0]
    for i in range(len(row)):
        for j in range(len(row)):
            if target[i] > target[j]:
                weight = 1 + (BETA - 1) * torch.max(quality[i], quality[j])
                hinge = torch.relu(ALPHA * (target[i] - target[j]) - (row[i] - row[j]))
                total = total + weight * hinge
                count += 1
    return total / max(count, 1)


def dense(pred: Tensor, target: Tensor) -> Tensor:
    """The pair matrix: every pair of every head held at once."""
    quality = (target - target.min()) / (target.max() - target.min())
    gap = target[:, None] - target
    weight = 1 + (BETA - 1) * torch.maximum(quality[:, None], quality)
    hinge = torch.relu(ALPHA * gap - (pred.unsqueeze(-1) - pred.unsqueeze(-2)))
    return torch.where(gap > 0, weight * hinge, 0).sum((-2, -1)) / (gap > 0).sum()


def step(form: str, pred: Tensor, target: Tensor) -> Callable[[], object]:
    """One loss with its gradient, as a function without arguments."""
    if form in ("loop", "dense"):
        function = loop if form == "loop" else dense

        def run() -> object:
            row = pred.detach().requires_grad_()
            return torch.autograd.grad(function(row, target).sum(), row)

        return run
    return lambda: qamro_value_and_grad(pred, target, alpha=ALPHA, beta=BETA, method=form)


def fits(form: str, heads: int, n: int, device: str) -> bool:
    """Whether a step stays within seconds and the memory of a small machine."""
    pairs = heads * n * n
    most = {"loop": 1 << 16, "dense": 1 << 26, "pairs": 1 << 30, "fused": 1 << 38}
    if device == "cuda":
        most |= {"loop": 1 << 12, "dense": 1 << 30, "pairs": 1 << 34}
    return (heads == 1 or form != "loop") and pairs <= most.get(form, pairs)


class PeakMemory:
    """The most memory used since `start`, over what was in use then, in bytes."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"

    def start(self) -> None:
        """Take what is in use now as the start."""
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present
            self.before = self._status("VmRSS")

    def read(self) -> int | None:
        """The most since then; None where the system does not tell it."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return self._status("VmHWM") - self.before if sys.platform == "linux" else None

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def replayed(run: Callable[[], object]) -> Callable[[], object]:
    """The step as a CUDA graph of ten, as the trainer runs it: the host's part falls away."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPLAYED):
            run()
    return graph.replay


def measure(
    run: Callable[[], object], device: str, seconds: float, captured: bool
) -> dict[str, float | None]:
    """The best and the median time of a step, over about `seconds`, and its peak memory."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    memory = PeakMemory(device)
    memory.start()
    run()
    wait()
    peak = memory.read()
    if captured:
        run = replayed(run)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 1000):
        before = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - before)
        if times[0] > seconds:
            break
    times.sort()
    steps = REPLAYED if captured else 1
    return {
        "seconds": times[0] / steps,
        "median_seconds": times[len(times) // 2] / steps,
        "peak_mb": None if peak is None else peak / 1e6,
    }


def problem(heads: int, n: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Ratings from 1 to 5, and predictions of them that are off by half a point."""
    generator = torch.Generator().manual_seed(n)
    target = 1 + 4 * torch.rand(n, generator=generator)
    pred = target + 0.5 * torch.randn(heads, n, generator=generator)
    return pred.to(device, dtype), target.to(device, dtype)


def cases(device: str, crossover: bool) -> Iterator[tuple[str, int, int]]:
    """What to measure: (form, heads, samples)."""
    small = "fused" if device == "cuda" else "pairs"
    if crossover:
        limit = 1 << 17 if device == "cuda" else 1 << 13
        for heads in (1, 10, 100, 1000):
            n = 128
            while n <= limit and heads * n <= 1 << 19:
                yield from ((form, heads, n) for form in (small, "sorted"))
                n *= 2
        return
    forms = ["loop", "dense", "pairs", "sorted", *(["fused"] if device == "cuda" else []), "auto"]
    for heads, n in [*((1, n) for n in SIZES), *((h, BATCH) for h in HEADS if h > 1)]:
        yield from ((form, heads, n) for form in forms)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on a case")
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--most", type=int, default=1 << 20, help="largest number of samples")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    name = "loss-crossover" if args.crossover else "loss"
    out = args.out or Path(__file__).parent / "results" / f"{name}-{args.device}.json"

    on_gpu = args.device == "cuda"
    rows: list[dict[str, object]] = []
    report = {
        "command": " ".join(["python", "benchmarks/loss.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if on_gpu else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": args.dtype,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{'heads':>6} {'N':>8} {'form':>7} {'ms':>12} {'median ms':>12} {'peak MB':>9}")
    for form, heads, n in cases(args.device, args.crossover):
        if n > args.most or not fits(form, heads, n, args.device):
            continue
        captured = on_gpu and form == "fused"
        result: dict[str, float | None]
        try:
            pred, target = problem(heads, n, args.device, getattr(torch, args.dtype))
            result = measure(step(form, pred, target), args.device, args.seconds, captured)
        except torch.OutOfMemoryError:
            result = dict.fromkeys(("seconds", "median_seconds", "peak_mb"))
        rows.append({"form": form, "heads": heads, "n": n, "captured": captured, **result})
        write_json(out, report)
        best, median, peak = result["seconds"], result["median_seconds"], result["peak_mb"]
        figures = "no memory" if best is None or median is None else f"{best * 1e3:12.4f} "
        figures += "" if median is None else f"{median * 1e3:12.4f} "
        figures += "" if peak is None else f"{peak:9.1f}"
        print(f"{heads:6} {n:8} {form:>7} {figures}", flush=True)
    print(f"wrote {out}")


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
