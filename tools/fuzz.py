"""Run trainings drawn at random, and say which ended as none should.

python tools/fuzz.py --cases 2000            of all trainers
python tools/fuzz.py --cases 200 --seed 7 --trainer SAC
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import fuzz

SHOWN = 20  # faults; more of them are but counted


def run(trainer: str, count: int, seed: int, bar: tqdm) -> tuple[Counter[str], list[fuzz.Case]]:
    """How so many cases of one trainer ended, and those that found a fault."""
    ends: Counter[str] = Counter()
    faulty: list[fuzz.Case] = []

    numbers = random.Random(f"{trainer}, {seed}")
    while ends.total() < count:
        case = fuzz.drawn(trainer, numbers.getrandbits(32))
        if not fuzz.is_legal(case):
            continue
        try:
            end = fuzz.check(case)
        except Exception:
            end = "FAULT"
            faulty.append(case)
        ends[end] += 1
        bar.update()
    return ends, faulty


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=2000, help="of all trainers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trainer", choices=fuzz.TRAINERS, help="one alone")
    parser.add_argument("--smallest", action="store_true", help="make faulty cases smaller first")
    given_arguments = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = [given_arguments.trainer] if given_arguments.trainer else fuzz.TRAINERS
    every = max(1, given_arguments.cases // len(names))
    ends: dict[str, Counter[str]] = {}
    faulty: list[fuzz.Case] = []
    with tqdm(total=every * len(names), unit=" cases") as bar:
        for name in names:
            bar.set_postfix_str(name)
            ends[name], found = run(name, every, given_arguments.seed, bar)
            faulty += found
    total = sum(ends.values(), Counter())
    print(f"{total.total():,} cases, seed {given_arguments.seed}")
    for name, counts in ends.items():
        trained = counts["trained"] / counts.total()
        refused = counts.total() - counts["trained"] - counts["FAULT"]
        print(
            f"  {name:5} {counts.total():5,} cases: trained {trained:.0%}, refused {refused:,}, "
            f"faults {counts['FAULT']:,}"
        )
    print("How they ended:")
    for end, count in total.most_common():
        print(f"  {count:6,} ({count / total.total():.1%}) {end}")
    report(faulty, given_arguments.smallest)
    return 1 if faulty else 0


def report(faulty: list[fuzz.Case], smallest: bool) -> None:
    """Each kind of fault once, with the code that shows it."""
    kinds: dict[str, list[fuzz.Case]] = {}
    for case in faulty:
        fault = fuzz.fault_of(case) or "gone when run again"
        kinds.setdefault(fault.split("\n")[0][:90], []).append(case)
    for found in list(kinds.values())[:SHOWN]:
        case = fuzz.smallest(found[0]) if smallest else found[0]
        print(f"\nFAULT, {len(found)} times: {fuzz.fault_of(case)}")
        print("    from math import inf, nan; from fractions import Fraction; import numpy as np")
        print("    from tests.fuzz import BoxOf, Case, DiscreteOf, check")
        print(f"    check({case!r})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
