"""Faults done to real campaigns: what the user sees, what is lost, how soon it goes on.

python benchmarks/faults.py [--repeat N] [--only NAME ...] [--seed S] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("faults", "e2e")]

from fault_scenarios import SCENARIOS, NotHereError, Outcome  # noqa: E402

MANY = {"killed-workers": 10, "killed-agent": 2, "killed-group": 2}
"""How many times as often as the others these are done."""


def collect(names: Iterable[str], repeat: int, seed: int) -> list[Outcome]:
    found: list[Outcome] = []
    for name in names:
        began, count = time.monotonic(), len(found)
        for number in range(repeat * MANY.get(name, 1)):
            chance = random.Random(f"{seed} {name} {number}")
            with tempfile.TemporaryDirectory(prefix="pal-faults-") as folder:
                try:
                    found += SCENARIOS[name](Path(folder) / "world", chance)
                except NotHereError as reason:
                    print(f"{name}: left out, {reason}", file=sys.stderr)
                    break
                except Exception as error:
                    said = Path(folder) / "world" / "output.txt"
                    print(f"{name}, repeat {number}, seed {seed}: {error}", file=sys.stderr)
                    print(said.read_text()[-3000:] if said.exists() else "", file=sys.stderr)
                    found.append(Outcome(name, f"BROKEN: {error}", 0, float("nan")))
        seconds = time.monotonic() - began
        print(f"{name}: {len(found) - count} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def table(outcomes: list[Outcome]) -> list[str]:
    rows = [
        "| fault | n | what the user sees | lost | left behind | goes on after: median, longest |",
        "|---|---|---|---|---|---|",
    ]
    for fault in dict.fromkeys(outcome.fault for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.fault == fault]
        back = [outcome.back for outcome in own]
        seen = own[-1].seen + (f" ({own[-1].remark})" if own[-1].remark else "")
        times = f"{statistics.median(back):.2f} s, {max(back):.2f} s"
        leaks = sorted({leak for outcome in own for leak in outcome.leaks})
        rows.append(
            f"| {fault} | {len(own)} | {seen.replace('|', '¦')} | {sum(o.lost for o in own)} | "
            f"{', '.join(leaks) or 'nothing'} | {times} |"
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every single outcome")
    wanted = parser.parse_args()
    outcomes = collect(wanted.only, wanted.repeat, wanted.seed)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    print("\n".join(table(outcomes)))
    print(f"\n{len(outcomes)} faults in all")
    broken = any(o.lost or o.leaks or o.seen.startswith("BROKEN") for o in outcomes)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
