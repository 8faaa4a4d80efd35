"""Run fuzzers: ``python tests/fuzz [DOOR ...] --cases 10000``; ``--only N`` repeats one case."""

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# Before torch is loaded: without it, last digits depend on where an array lies in memory.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.harness import Report, doors, run_door, single_case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DOOR", help="default: all")
    parser.add_argument("--cases", type=int, default=1000, help="of each door (times its share)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run this one case in this process")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    known = doors()
    unknown = set(options.names) - known.keys()
    if unknown:
        parser.error(f"no door {min(unknown)!r}; there are: {', '.join(known)}")
    chosen = {name: known[name] for name in options.names or known}
    if options.only is not None:
        for door in chosen.values():
            with single_case(door) as run:
                print(door.name, options.only, run(options.seed, options.only))
        return 0
    start, results = time.monotonic(), {}
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
        parts = {}
        for name, door in chosen.items():
            first, cases = options.first, math.ceil(options.cases * door.share)
            each = math.ceil(cases / options.workers)
            parts[name] = [
                pool.submit(_part, name, range(number, min(number + each, first + cases)), options)
                for number in range(first, first + cases, each)
            ]
        for name, reports in parts.items():
            whole = Report()
            for report in reports:
                whole.add(report.result())
            results[name] = _show(name, whole)
    record = {
        "command": f"python tests/fuzz {' '.join(chosen)} --cases {options.cases} "
        f"--seed {options.seed} --workers {options.workers}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "load average": [round(load, 1) for load in os.getloadavg()],
        "seconds": round(time.monotonic() - start, 1),
        "seed": options.seed,
        "doors": results,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if any(result["failures"] for result in results.values()) else 0


def _part(name: str, numbers: range, options: argparse.Namespace) -> Report:
    return run_door(doors()[name], len(numbers), options.seed, numbers.start)


def _show(name: str, report: Report) -> dict[str, Any]:
    """Print what became of a door, a line for each kind of failure, and return it as a record."""
    outcomes = dict(sorted(report.outcomes.items()))
    print(f"{name}: {json.dumps(outcomes)}, {report.seconds} s of all workers", flush=True)
    kinds: dict[str, list[int]] = {}
    for failure in report.failures:
        last = failure["why"].strip().splitlines()[-1]
        kinds.setdefault(f"{failure['outcome']}: {last[:200]}", []).append(failure["case"])
    for kind, numbers in kinds.items():
        print(f"  {len(numbers)} x {kind!a}, first case {numbers[0]}", flush=True)
    return {
        "cases": report.outcomes.total(),
        "outcomes": outcomes,
        "failures": report.failures,
        "seconds": report.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
