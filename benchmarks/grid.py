"""A grid of heads trained as one stack, against the ways it is usually done.

    python benchmarks/grid.py                       # 60 heads; about three minutes on two cores
    python benchmarks/grid.py --heads 1,12,60,1000  # several sizes; the usual loop is sampled
    python benchmarks/grid.py --chunks 4,8,16,32    # heads a stack, to choose CPU_CHUNK_BYTES

Data are synthetic: 2,048 training clips x 512, 256 dev clips, batch 256, MLP 256-64-1, 100 epochs.
`usual` is a PyTorch module trained alone with a DataLoader and a vectorised loss, its dev metrics
by scipy after each epoch; `vmap` is torch.func.vmap over stacked modules. Both are timed on fewer
heads or epochs where they would take minutes, and scaled; the JSON says so (`measured_share`).
"""

import argparse
import datetime
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor, nn

from qamro_cache.training.fit import Features, Labelled, fit
from qamro_cache.training.recipe import Folds, Job, Recipe

CLIPS, DEV, WIDTH, BATCH = 2048, 256, 512, 256
ALPHAS, BETAS = (0.1, 0.2, 0.5), (3.0, 5.0, 7.0, 10.0)
# Products of a head's step: forward and both gradients, but no gradient of the input.
FLOP = 2 * BATCH * (2 * WIDTH * 256 + 3 * 256 * 64 + 3 * 64)
WEIGHTS = WIDTH * 256 + 256 + 256 * 64 + 64 + 64 + 1


def make_data() -> tuple[Features, Labelled, Folds]:
    """Synthetic embeddings and labels in steps of 0.2, as five raters give them."""
    g = torch.Generator().manual_seed(0)
    total = CLIPS + DEV
    x = torch.randn(total, WIDTH, generator=g)
    y = 3 + 0.5 * (x[:, :4].sum(1) / 2 + 0.5 * torch.randn(total, generator=g))
    y = ((y * 5).round() / 5).clamp(1, 5).double()
    labels = Labelled(y[None], torch.tensor([[1.0, 5.0]]), torch.arange(total) % 31)
    dev = np.arange(total) >= CLIPS
    folds = Folds(~dev[None], dev[None], np.zeros((1, total), bool))
    return Features(x, torch.arange(total + 1), torch.ones(total)), labels, folds


def make_jobs(heads: int, epochs: int) -> list[Job]:
    """The paper's 12 cells, as many seeds as fill ``heads``; nobody stops early."""
    cells = [
        Recipe(alpha=a, beta=b, epochs=epochs, patience=epochs, batch_size=BATCH, lr=5e-4)
        for a in ALPHAS
        for b in BETAS
    ]
    return [Job(cells[k % 12], seed=k // 12) for k in range(heads)]


def stacked(
    data: tuple[Features, Labelled, Folds], heads: int, epochs: int, device: str, chunk: int | None
) -> float:
    """Seconds for all heads, dev metrics, early stopping and predictions included."""
    start = time.perf_counter()
    for _, result in fit(*data, make_jobs(heads, epochs), device=device, chunk=chunk):
        assert not result.diverged.any()
    return time.perf_counter() - start


def usual(data: tuple[Features, Labelled, Folds], epochs: int, device: str) -> float:
    """Seconds for one head as it is usually written."""
    features, labels, _ = data
    y = labels.targets[0].float()
    dataset = torch.utils.data.TensorDataset(features.windows[:CLIPS], y[:CLIPS])
    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True)
    torch.manual_seed(0)
    start = time.perf_counter()
    model = nn.Sequential(
        nn.Linear(WIDTH, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 1)
    ).to(device)
    optimiser = torch.optim.SGD(model.parameters(), 5e-4, momentum=0.9)
    x_dev, y_dev = features.windows[CLIPS:].to(device), y[CLIPS:].to(device)
    best, kept = float("inf"), None
    for _ in range(epochs):
        model.train()
        for x, target in loader:
            x, target = x.to(device), target.to(device)
            pred = model(x).squeeze(-1)
            loss = nn.functional.huber_loss(pred, target) + pairs(pred, target, 0.2, 7.0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
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
    """The loss on the pair matrix, as a vectorised implementation has it."""
    n = (y - y.min()) / (y.max() - y.min())
    gap = y[:, None] - y
    valid = gap > 0
    weight = 1 + (beta - 1) * torch.maximum(n[:, None], n)
    hinge = torch.relu(alpha * gap - (pred[:, None] - pred))
    return (weight * hinge * valid).sum() / valid.sum().clamp(min=1)


def vmapped(data: tuple[Features, Labelled, Folds], heads: int, epochs: int, device: str) -> float:
    """Seconds for ``heads`` heads by torch.func, without dev metrics (in its favour)."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    features, labels, _ = data
    x_all, y_all = features.windows[:CLIPS].to(device), labels.targets[0, :CLIPS].float().to(device)
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
    return time.perf_counter() - start


def ceilings(device: str) -> dict[str, float]:
    """The machine's own limits: float32 products and copies."""

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
    return {
        "gflop_s": 2 * n**3 / best(lambda: a @ a) / 1e9,
        "gbyte_s": 2 * big.nbytes / best(lambda: big.clone()) / 1e9,
    }


def main() -> None:
    """Measure, print a table and write benchmarks/results/grid-<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default="60", help="sizes of the grid, joined by commas")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--usual", type=int, default=5, help="single runs to time")
    parser.add_argument("--chunks", default="", help="heads a stack, joined by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    data, device = make_data(), args.device
    record: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "data": f"synthetic, {CLIPS} x {WIDTH}, {DEV} dev clips, batch {BATCH}, MLP 256-64-1",
        "epochs": args.epochs,
        "ceilings": ceilings(device),
    }
    sizes = [int(size) for size in args.heads.split(",")]
    chunks = [int(size) for size in args.chunks.split(",")] if args.chunks else [None]
    stacked(data, 2, 2, device, None)  # warm up
    usual(data, 1, device)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = []
    for heads in sizes:
        for chunk in chunks:
            seconds = stacked(data, heads, args.epochs, device, chunk)
            steps = heads * args.epochs * CLIPS // BATCH
            rows.append(
                {
                    "heads": heads, "chunk": chunk, "seconds": seconds,
                    "heads_per_second": heads / seconds,
                    "gflop_s": steps * FLOP / seconds / 1e9,
                    # SGD reads and writes each weight and its velocity.
                    "gbyte_s": steps * 4 * 4 * WEIGHTS / seconds / 1e9,
                    "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )  # fmt: skip
            print("stacked", rows[-1], flush=True)
    times = [usual(data, args.epochs, device) for _ in range(args.usual)]
    single = float(np.median(times))
    few, some = (12, max(1, args.epochs // 20)) if device == "cpu" else (sizes[-1], args.epochs)
    vmap_head = vmapped(data, few, some, device) / few * args.epochs / some
    for row in rows:
        row["usual_seconds"] = single * row["heads"]
        row["times_faster_than_usual"] = single * row["heads"] / row["seconds"]
        row["times_faster_than_vmap"] = vmap_head * row["heads"] / row["seconds"]
        print(
            f"{row['heads']} heads (chunk {row['chunk']}): {row['seconds']:.1f} s, usual "
            f"{row['usual_seconds']:.1f} s: {row['times_faster_than_usual']:.2f} times; vmap "
            f"{row['times_faster_than_vmap']:.2f} times; {row['gflop_s']:.0f} GFLOP/s"
        )
    record |= {
        "stacked": rows,
        "usual": {"seconds_a_head": times, "measured_share": args.usual / max(sizes)},
        "vmap": {"seconds_a_head": vmap_head, "heads": few, "measured_share": some / args.epochs},
        "mib_before": before // 1024,
    }
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    out = args.out or folder / f"grid-{device}.json"
    out.write_text(json.dumps(record, indent=2) + "\n")
    print("written to", out)


if __name__ == "__main__":
    main()
