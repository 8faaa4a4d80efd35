"""Run fuzzers: ``python tests/fuzz [DOOR ...] --cases 10000``; ``--only N`` repeats one case."""

import argparse
import json
import math
import os
import platform
import sys
import time
from pathlib import Path

# Before torch is loaded: without it, last digits depend on where an array lies in memory.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.harness import doors, run_door, single_case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DOOR", help="default: all")
    parser.add_argument("--cases", type=int, default=1000, help="of each door (times its share)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run this one case in this process")
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
    results = {}
    for name, door in chosen.items():
        cases = math.ceil(options.cases * door.share)
        report = run_door(door, cases, options.seed, options.first)
        results[name] = {
            "cases": cases,
            "outcomes": dict(sorted(report.outcomes.items())),
            "failures": report.failures,
            "seconds": report.seconds,
        }
        print(f"{name}: {json.dumps(results[name]['outcomes'])}, {report.seconds} s")
        kinds: dict[str, list[int]] = {}
        for failure in report.failures:
            last = failure["why"].strip().splitlines()[-1]
            kinds.setdefault(f"{failure['outcome']}: {last[:200]}", []).append(failure["case"])
        for kind, numbers in kinds.items():
            print(f"  {len(numbers)} x {kind!a}, first case {numbers[0]}")
    names = " ".join(chosen)
    record = {
        "command": f"python tests/fuzz {names} --cases {options.cases} --seed {options.seed}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": platform.machine(),
        "seed": options.seed,
        "doors": results,
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if any(result["failures"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
