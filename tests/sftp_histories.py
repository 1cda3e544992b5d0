"""Random histories of one file on a server: ``python -m tests.sftp_histories --count 10000 --seed 1``.

Two of three are histories of writers, the third one of downloads. ``--only SEED/NUMBER`` runs one again, as a failure
names it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.histories.fetching import Fetching
from tests.histories.laws import LawBroken, Story, run_history
from tests.histories.writing import Writing

__all__ = ["run_one"]


def run_one(seed: str) -> Story:
    """Run the history SEED/NUMBER.

    Raises:
        LawBroken: A law does not hold.
    """
    number = int(seed.rpartition("/")[2])
    return run_history(Writing, seed) if number % 3 else run_history(Fetching, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only")
    arguments = parser.parse_args()
    logging.getLogger("asyncworker").propagate = False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    seeds = [arguments.only] if arguments.only else [f"{arguments.seed}/{n}" for n in range(arguments.count)]
    broken = 0
    endings: Counter[str] = Counter()
    started = time.monotonic()
    for seed in seeds:
        try:
            endings.update(run_one(seed).endings)
        except LawBroken as fault:
            broken += 1
            print(fault if arguments.only else str(fault).partition("\n")[0], flush=True)
    print(f"{len(seeds)} histories in {time.monotonic() - started:.0f} s, {broken} broke a law")
    print("processes ended:", dict(endings.most_common()))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
