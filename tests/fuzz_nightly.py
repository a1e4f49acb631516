"""Damaged files of every format: ``python -m tests.fuzz_nightly [FILES] [SEED]``, or ``make fuzz``.

Ends with 1 where a reader raised anything but an `InputError`, with the seeds that show it, or
where memory grew beyond what small files can need.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.trace.formats.mutate import survives
from tests.trace.formats.samples import cases

FILES, SEED = 100_000, 0
MAX_RSS_KIB = 2 << 20
SLOW_S = 10.0  # a small damaged file that takes longer makes a reader hang


def main(files: int = FILES, first: int = SEED) -> int:
    """Run; return the exit code."""
    samples = list(cases().items())
    found: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        for at in range(first, first + files):
            name, case = samples[at % len(samples)]
            start = time.monotonic()
            try:
                error = survives(case, Path(folder) / name, random.Random(at))
                found["read" if error is None else "refused"] += 1
            except Exception as error:
                failures.append(f"seed {at} ({name}): {type(error).__name__}: {error}")
                traceback.print_exc()
            if time.monotonic() - start > SLOW_S:
                failures.append(f"seed {at} ({name}): took more than {SLOW_S} s")
            if (at + 1 - first) % 5000 == 0:
                print(at + 1 - first, dict(found), f"{len(failures)} failures", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak > MAX_RSS_KIB:
        failures.append(f"memory reached {peak} KiB")
    print(dict(found), f"peak {peak // 1024} MiB", *failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
