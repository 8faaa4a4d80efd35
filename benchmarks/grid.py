"""A grid of heads trained as one stack, against the ways it is usually done.

    python benchmarks/grid.py                       # 60 heads; about six minutes on two cores
    python benchmarks/grid.py --usual 0 --chunks 4,8,16,32  # heads a stack: CPU_CHUNK_BYTES
    python benchmarks/grid.py                       # on a GPU: 12 and 1,000 heads, every precision
    python benchmarks/grid.py --heads 3720 --leave-out 31  # on a GPU: leave one system out
    python benchmarks/grid.py --usual 0 --recipe '{"batches": "own"}'  # or any other setting

Data are synthetic: 2,048 training clips x 512, 256 dev clips, batch 256, MLP 256-64-1, 100 epochs.
`usual` is a PyTorch module trained alone with a DataLoader and a vectorized loss, its dev metrics
by scipy after each epoch; `vmap` is torch.func.vmap over stacked modules. On a CPU both are run
whole, in turns with the stack; on a GPU the usual loop is timed on --usual heads and scaled, as the
JSON says (`measured_share`).
`compiled`, on a GPU, is a stack of the same heads through torch.compile, an epoch in a CUDA graph:
what hand-written kernels have to beat. `srcc` is the mean over heads on the dev clips.
On a GPU every row is run once before it is timed, for the kernels' compilation, and everywhere
--repeats times; `seconds` is the median of a whole run, from embeddings to predictions, and
`seconds_epochs` the epochs alone, at the rate between a run's first and last look at its heads:
without the set-up, the capture of the graph and the copy of the results. The file is written after
every row, so that one that fails loses no other; where memory runs out a row has an error instead.
"""

import argparse
import datetime
import itertools
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from qamro_cache.errors import QamroError
from qamro_cache.evaluation.metrics import srcc
from qamro_cache.extraction.units import available_processors
from qamro_cache.files import write_json
from qamro_cache.training.fit import fit
from qamro_cache.training.inputs import Features, Folds, Targets
from qamro_cache.training.recipe import Job, make_recipe

CLIPS, DEV, WIDTH, BATCH = 2048, 256, 512, 256
#: Clips of MusicEval, which has 31 systems.
MUSIC_EVAL = 2748
ALPHAS, BETAS = (0.1, 0.2, 0.5), (3.0, 5.0, 7.0, 10.0)
#: Of the recipe, beside alpha and beta.
OPTIONS: dict[str, Any] = {}
Data = tuple[Features, Targets, Folds]


def widths() -> list[int]:
    """Of all layers, from the features to the score."""
    return [WIDTH, *make_recipe(OPTIONS).head.widths, 1]


def step_flop() -> int:
    """Products of a head's step: forward and both gradients, but no gradient of the features."""
    layers = [a * b for a, b in itertools.pairwise(widths())]
    return 2 * BATCH * (3 * sum(layers) - layers[0])


def step_bytes(activation: int) -> int:
    """Memory that a head's step must move, with activations of so many bytes a number.

    Weights and velocities are read and written once, weights read once more going forward and
    those of layer 1 going back; each activation and its gradient is written once, read by the next
    layer, by the derivative and by the weights' gradient.
    """
    layers = [a * b for a, b in itertools.pairwise(widths())]
    weights = sum(layers) + sum(widths()[1:])
    hidden = sum(widths()[1:-1])
    return 4 * (5 * weights + sum(layers[1:-1])) + activation * BATCH * 6 * hidden


def make_data(leave_out: int = 0) -> Data:
    """Synthetic embeddings and labels in steps of 0.2, as five raters give them.

    With ``leave_out`` systems, each is a fold's held-out one, and nothing stops early.
    """
    g = torch.Generator().manual_seed(0)
    total = MUSIC_EVAL if leave_out else CLIPS + DEV
    x = torch.randn(total, WIDTH, generator=g)
    y = 3 + 0.5 * (x[:, :4].sum(1) / 2 + 0.5 * torch.randn(total, generator=g))
    y = ((y * 5).round() / 5).clamp(1, 5).double()
    systems = torch.arange(total) % (leave_out or 31)
    targets = Targets(y[None], torch.tensor([[1.0, 5.0]]))
    features = Features(x, torch.arange(total + 1), torch.ones(total))
    if leave_out:
        held = systems.numpy() == np.arange(leave_out)[:, None]
        return features, targets, Folds(~held, np.zeros_like(held), held)
    dev = np.arange(total) >= CLIPS
    folds = Folds(~dev[None], dev[None], np.zeros((1, total), bool))
    return features, targets, folds


def make_jobs(heads: int, epochs: int, folds: int) -> list[Job]:
    """The paper's 12 cells in every fold, as many seeds as fill ``heads``; nobody stops early."""
    cells = [
        make_recipe({"alpha": a, "beta": b, "epochs": epochs, "patience": epochs} | OPTIONS)
        for a in ALPHAS
        for b in BETAS
    ]
    return [Job(cells[k % 12], k // 12 // folds, k // 12 % folds) for k in range(heads)]


class Run(NamedTuple):
    """A run: seconds, of the epochs alone (NaN without two looks at the heads), and mean SRCC."""

    seconds: float
    epochs: float
    srcc: float


def stacked(
    data: Data, heads: int, epochs: int, device: str, chunk: int | None, precision: str
) -> Run:
    """All heads, dev metrics, early stopping and predictions included."""
    looks: list[tuple[float, int]] = []

    def look(done: int, total: int, running: int) -> None:
        if running:
            looks.append((time.perf_counter(), done))

    jobs = make_jobs(heads, epochs, len(data[2].train))
    start = time.perf_counter()
    predictions = []
    for _, result in fit(
        *data, jobs, device=device, chunk=chunk, precision=precision, weights=False, progress=look
    ):
        assert not result.diverged.any()
        predictions.append(result.predictions)
    seconds = time.perf_counter() - start
    dev = torch.from_numpy(data[2].validation[0])
    truth = data[1].labels[0, dev]
    scores = torch.cat(predictions)[:, dev].double()
    found = float(srcc(scores, truth.expand_as(scores)).mean()) if dev.any() else float("nan")
    if len(looks) < 2 or len(predictions) > 1:
        return Run(seconds, float("nan"), found)
    (t0, d0), (t1, d1) = looks[0], looks[-1]
    return Run(seconds, (t1 - t0) / (d1 - d0) * heads * epochs, found)


def usual(data: Data, epochs: int, device: str) -> float:
    """Seconds for one head as it is usually written."""
    features, targets, _ = data
    y = targets.labels[0].float()
    dataset = torch.utils.data.TensorDataset(features.windows[:CLIPS], y[:CLIPS])
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)
    torch.manual_seed(0)
    start = time.perf_counter()
    model = nn.Sequential(
        nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1)
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 5e-4, momentum=0.9)
    x_dev, y_dev = features.windows[CLIPS:].to(device), y[CLIPS:].to(device)
    best, kept = float("inf"), None
    for _ in range(epochs):
        model.train()
        for x, target in loader:
            x, target = x.to(device), target.to(device)
            pred = model(x).squeeze(-1)
            loss = nn.functional.huber_loss(pred, target) + pairs(pred, target, 0.2, 7.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            pred = model(x_dev).squeeze(-1)
            loss = nn.functional.huber_loss(pred, y_dev) + pairs(pred, y_dev, 0.2, 7.0)
        scores, truth = pred.cpu().numpy(), y_dev.cpu().numpy()
        _ = pearsonr(scores, truth), spearmanr(scores, truth), ((scores - truth) ** 2).mean()
        if loss.item() < best:
            best = loss.item()
            kept = {name: p.detach().clone() for name, p in model.state_dict().items()}
    assert kept is not None
    return time.perf_counter() - start


def pairs(pred: Tensor, y: Tensor, alpha: float, beta: float) -> Tensor:
    """The loss on the pair matrix, as a vectorized implementation has it."""
    n = (y - y.min()) / (y.max() - y.min())
    gap = y[:, None] - y
    valid = gap > 0
    weight = 1 + (beta - 1) * torch.maximum(n[:, None], n)
    hinge = torch.relu(alpha * gap - (pred[:, None] - pred))
    return (weight * hinge * valid).sum() / valid.sum().clamp(min=1)


def vmapped(data: Data, heads: int, epochs: int, device: str) -> float:
    """Seconds for ``heads`` heads by torch.func, without dev metrics (in its favor)."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    features, targets, _ = data
    if device == "cuda":
        torch.cuda.synchronize()
    x_all, y_all = features.windows[:CLIPS].to(device), targets.labels[0, :CLIPS].float().to(device)
    start = time.perf_counter()

    def make() -> nn.Module:
        return nn.Sequential(
            nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1)
        ).to(device)

    base = make().to("meta")
    params, _ = stack_module_state([make() for _ in range(heads)])
    params = {name: p.detach() for name, p in params.items()}
    cells = [(a, b) for a in ALPHAS for b in BETAS]
    alpha, beta = (
        torch.tensor([cells[k % 12][i] for k in range(heads)], device=device) for i in (0, 1)
    )
    velocity = {name: torch.zeros_like(p) for name, p in params.items()}

    def loss(p: dict[str, Tensor], a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        pred = functional_call(base, p, (x,)).squeeze(-1)
        return nn.functional.huber_loss(pred, y) + pairs(pred, y, a, b)

    gradient = vmap(grad(loss), in_dims=(0, 0, 0, None, None))
    for _ in range(epochs):
        for batch in torch.randperm(CLIPS, device=device).split(BATCH):
            grads = gradient(params, alpha, beta, x_all[batch], y_all[batch])
            for name, p in params.items():
                velocity[name].mul_(0.9).add_(grads[name])
                p.add_(velocity[name], alpha=-5e-4)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compiled(data: Data, heads: int, epochs: int, device: str, precision: str) -> dict[str, float]:
    """Seconds for ``heads`` heads through torch.compile, without dev metrics (in its favor)."""
    features, targets, _ = data
    x_all, y_all = features.windows[:CLIPS].to(device), targets.labels[0, :CLIPS].float().to(device)
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    sizes = (WIDTH, 256, 64, 1)
    params = []
    for inner, width in itertools.pairwise(sizes):
        for shape in ((heads, inner, width), (heads, 1, width)):
            params.append((torch.rand(shape, device=device) * 2 - 1) * inner**-0.5)
    velocity = [torch.zeros_like(p) for p in params]
    cells = [(a, b) for a in ALPHAS for b in BETAS]
    alpha, beta = (
        torch.tensor([cells[k % 12][i] for k in range(heads)], device=device)[:, None, None]
        for i in (0, 1)
    )

    def loss(params: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        hidden = x.to(half).expand(heads, *x.shape)
        for layer in range(3):
            weight, bias = params[2 * layer], params[2 * layer + 1]
            hidden = torch.bmm(hidden, weight.to(half)) + bias.to(half)
            hidden = hidden.relu() if layer < 2 else hidden
        pred = hidden.squeeze(-1).float()
        huber = nn.functional.huber_loss(pred, y.expand_as(pred), reduction="none").mean(-1)
        gap = y[:, None] - y
        valid = gap > 0
        n = (y - y.min()) / (y.max() - y.min())
        weight = 1 + (beta - 1) * torch.maximum(n[:, None], n)
        hinge = torch.relu(alpha * gap - (pred.unsqueeze(-1) - pred.unsqueeze(-2)))
        ranking = (weight * hinge * valid).sum((-2, -1)) / valid.sum().clamp(min=1)
        return (huber + ranking).sum()

    def step(params: list[Tensor], velocity: list[Tensor], x: Tensor, y: Tensor) -> None:
        for p, v, grad in zip(params, velocity, torch.func.grad(loss)(params, x, y), strict=True):
            v.mul_(0.9).add_(grad)
            p.add_(v, alpha=-5e-4)

    order = torch.randperm(CLIPS, device=device)
    fused = torch.compile(step, dynamic=False, fullgraph=True)

    def epoch() -> None:
        for batch in order.split(BATCH):
            fused(params, velocity, x_all[batch], y_all[batch])

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        start, stream = time.perf_counter(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            epoch()
        stream.synchronize()
        compiling, graph = time.perf_counter() - start, torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            epoch()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(epochs):
            order.copy_(torch.randperm(CLIPS, device=device))
            graph.replay()
        torch.cuda.synchronize()
    finally:
        torch.set_float32_matmul_precision(before)
    assert all(p.isfinite().all() for p in params)
    return {"seconds": time.perf_counter() - start, "compile_seconds": compiling}


def rivals_of(data: Data, heads: int, epochs: int) -> tuple[float, float]:
    """Seconds that as many heads take on a CPU by vmap, and one after another as is usual."""
    together = vmapped(data, heads, epochs, "cpu")
    return together, sum(usual(data, epochs, "cpu") for _ in range(heads))


def ceilings(device: str) -> dict[str, float]:
    """The machine's own limits: products in each precision, and copies."""

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return min(times)

    n = 8192 if device == "cuda" else 2048
    a = torch.randn(n, n, device=device)
    big = torch.empty(64 << 20, device=device)
    limits = {"gbyte_s": 2 * big.nbytes / best(lambda: big.clone()) / 1e9}
    limits["gflop_s_float32"] = 2 * n**3 / best(lambda: a @ a) / 1e9
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        limits["gflop_s_tf32"] = 2 * n**3 / best(lambda: a @ a) / 1e9
        torch.set_float32_matmul_precision("highest")
        b = a.bfloat16()
        limits["gflop_s_bf16"] = 2 * n**3 / best(lambda: b @ b) / 1e9
    return limits


def peak_mib(device: str) -> int:
    """Most memory so far: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Measure, print a table and write benchmarks/results/grid-<device>.json."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default="", help="sizes of the grid [12,1000 on a GPU; 60]")
    parser.add_argument("--precision", default="", help="joined by commas [all on a GPU]")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument(
        "--usual", type=int, default=5, help="single runs to time on a GPU; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=3 if gpu else 1, help="runs of a row")
    parser.add_argument("--chunks", default="", help="heads a stack, joined by commas")
    parser.add_argument("--leave-out", type=int, default=0, help="folds that leave a system out")
    parser.add_argument(
        "--recipe", type=json.loads, default={}, help="JSON of settings beside alpha and beta"
    )
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    OPTIONS.update(args.recipe)
    if OPTIONS and args.usual:
        parser.error("the rivals train the default recipe alone: add --usual 0")
    data, device = make_data(args.leave_out), args.device
    gpu = device == "cuda"
    shape = "-".join(map(str, widths()[1:]))
    processor = f"CPU, {available_processors()} cores, {platform.machine()}"
    record: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if gpu else processor,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "data": f"synthetic, {len(data[2].train)} folds of {int(data[2].train[0].sum())} training "
        f"clips x {WIDTH}, {DEV} dev clips unless held out, batch {BATCH}, MLP {shape}",
        "recipe": args.recipe,
        "epochs": args.epochs,
        "ceilings": ceilings(device),
    }
    sizes = [int(size) for size in (args.heads or ("12,1000" if gpu else "60")).split(",")]
    chunks = [int(size) for size in args.chunks.split(",")] if args.chunks else [None]
    names = (args.precision or ("float32,tf32,bf16" if gpu else "float32")).split(",")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    suffix = f"-leave-out-{args.leave_out}" if args.leave_out else ""
    out = args.out or folder / f"grid-{device}{suffix}.json"
    rows: list[dict[str, Any]] = []
    record |= {"mib_before": peak_mib(device), "stacked": rows}
    for heads, chunk, precision in itertools.product(sizes, chunks, names):
        rows.append({"heads": heads, "chunk": chunk, "precision": precision})
        try:
            # A GPU's kernels are compiled and its libraries loaded in the first epochs.
            stacked(data, heads if gpu else 2, 3 if gpu else 2, device, chunk, precision)
            runs, turns = [], []
            for _ in range(args.repeats):
                runs.append(stacked(data, heads, args.epochs, device, chunk, precision))
                rows[-1]["peak_mib"] = peak_mib(device)  # before a rival's
                if not gpu and args.usual:
                    turns.append(rivals_of(data, heads, args.epochs))
        except (torch.OutOfMemoryError, QamroError) as error:
            rows[-1]["error"] = str(error).splitlines()[0]
        else:
            steps = heads * args.epochs * -(-int(data[2].train.any(0).sum()) // BATCH)
            rows[-1] |= figures(runs, heads, steps, precision)
            if turns:
                rows[-1]["vmap_and_usual_seconds_in_turns"] = turns
        print("stacked", rows[-1], flush=True)
        write_json(out, record)
    if gpu and not args.leave_out and not OPTIONS:
        rivals: list[dict[str, Any]] = []
        record["compiled"] = rivals
        for heads, precision in itertools.product(sizes, names):
            rivals.append({"heads": heads, "precision": precision})
            try:
                rivals[-1] |= compiled(data, heads, args.epochs, device, precision)
            except Exception as error:  # whatever its compiler says
                rivals[-1]["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            print("compiled", rivals[-1], flush=True)
            write_json(out, record)
            torch.cuda.empty_cache()
    done = [row for row in rows if "error" not in row and args.usual]
    if gpu and args.usual:
        usual(data, 1, device)
        times = [usual(data, args.epochs, device) for _ in range(args.usual)]
        # As many heads as fit beside their pair matrices.
        few = min(sizes[-1], 1000)
        vmapped(data, few, 1, device)
        single, vmap_head = float(np.median(times)), vmapped(data, few, args.epochs, device) / few
        record["usual"] = {"seconds_a_head": times, "measured_share": args.usual / max(sizes)}
        record["vmap"] = {"seconds_a_head": vmap_head, "heads": few}
    for row in done:
        if not gpu:
            whole = np.median(row["vmap_and_usual_seconds_in_turns"], 0) / row["heads"]
            vmap_head, single = whole.tolist()
        row["usual_seconds"] = single * row["heads"]
        row["times_faster_than_usual"] = single * row["heads"] / row["seconds"]
        row["times_faster_than_vmap"] = vmap_head * row["heads"] / row["seconds"]
        print(
            f"{row['heads']} heads, {row['precision']} (chunk {row['chunk']}): "
            f"{row['seconds']:.2f} s, usual {row['usual_seconds']:.1f} s: "
            f"{row['times_faster_than_usual']:.2f} times; vmap "
            f"{row['times_faster_than_vmap']:.2f} times; {row['gflop_s']:.0f} GFLOP/s, "
            f"{row['gbyte_s']:.0f} GB/s"
        )
    write_json(out, record)
    print("written to", out)


def figures(runs: list[Run], heads: int, steps: int, precision: str) -> dict[str, Any]:
    """What a row's runs come to; ``steps`` of all heads."""
    seconds, training, found = (float(value) for value in np.median(runs, 0))
    return {
        "seconds": seconds,
        "seconds_epochs": None if np.isnan(training) else training,
        "runs": [run.seconds for run in runs],
        "srcc": None if np.isnan(found) else found,
        "heads_per_second": heads / seconds,
        "gflop_s": steps * step_flop() / seconds / 1e9,
        "gbyte_s": steps * step_bytes(2 if precision == "bf16" else 4) / seconds / 1e9,
    }


if __name__ == "__main__":
    main()
