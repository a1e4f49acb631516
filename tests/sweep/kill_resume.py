"""Kill a sweep with SIGKILL at random moments and resume it: ``python -m tests.sweep.kill_resume``.

Ends with 0 if the result is, byte for byte, that of a sweep nobody disturbed, and no point was
stored twice or lost.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.sweep.tiny import TINY

BASE = TINY.replace("layers: 1, steps: 2", "layers: 2, steps: 20")
SWEEP = """
base: base.yaml
vary: {{ep.slots_per_rank: [0, 1, 2]}}
seeds: {seeds}
draws: 1
"""
OUTPUTS = ("sweep.csv", "sweep.parquet")


def command(file: Path, out: Path) -> list[str]:
    run = [sys.executable, "-m", "ultraep_sim.cli", "sweep", str(file)]
    return [*run, "--out", str(out), "--jobs", "2", "--no-report"]


def disturbed(file: Path, out: Path, kills: int, rng: random.Random, after: float) -> int:
    """Kill so many runs, then let one end; return how many kills hit a running sweep."""
    hit = 0
    for _ in range(kills):
        parts = out / "parts"
        before = len(list(parts.glob("*.parquet"))) if parts.is_dir() else 0
        with subprocess.Popen(
            command(file, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            # Wait for the first new point, so that a kill falls into the sweep and not the import.
            while run.poll() is None:
                if parts.is_dir() and len(list(parts.glob("*.parquet"))) > before:
                    break
                time.sleep(0.02)
            time.sleep(rng.random() * after)
            if run.poll() is None:
                hit += 1
                run.send_signal(signal.SIGKILL)
        kept = {path.name: path.read_bytes() for path in parts.glob("*.parquet")}
        for name, content in kept.items():
            assert (parts / name).read_bytes() == content, f"{name} was written again"
    subprocess.run(command(file, out), check=True, stdout=subprocess.DEVNULL)
    return hit


def main(kills: int = 50, seeds: int = 40, seed: int = 0, after: float = 1.0) -> int:
    """Run both, compare, and return the exit code."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        (Path(folder) / "base.yaml").write_text(BASE)
        file.write_text(SWEEP.format(seeds=seeds))
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        hit = disturbed(file, rough, kills, random.Random(seed), after)
        subprocess.run(command(file, calm), check=True, stdout=subprocess.DEVNULL)
        same = all((calm / name).read_bytes() == (rough / name).read_bytes() for name in OUTPUTS)
        names = [sorted(p.name for p in (d / "parts").iterdir()) for d in (calm, rough)]
        points = 3 * seeds * 2
        print(
            f"{hit} of {kills} kills hit a running sweep; "
            f"{len(names[1])} parts for {points} points; {'same' if same else 'OTHER'} bytes"
        )
        return 0 if same and names[0] == names[1] and len(names[1]) == points else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:4])))
