"""Make the shipped traces: ``train`` the two runs (``export`` and ``check`` follow)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hw_runtime.record.tiny_moe import TinyMoEConfig  # noqa: E402
from hw_runtime.record.train import Batches, TrainConfig, single_threaded, train  # noqa: E402

BATCH_SEED = 1
KEEP_AT = (200, 1200, 2400)
RUNS = {
    "train-aux": TrainConfig(
        model=TinyMoEConfig(balance="aux", balance_coefficient=1e-2),
        steps=2400,
        warmup=200,
        seed=0,
    ),
    "train-bias": TrainConfig(
        model=TinyMoEConfig(balance="bias", balance_coefficient=1e-4, bias_step=1e-3),
        steps=2400,
        warmup=200,
        seed=0,
    ),
}


def texts(split: str) -> dict[str, np.ndarray]:
    found = sorted((ROOT / ".corpus" / "text").glob(f"*.{split}"))
    return {path.stem: np.frombuffer(path.read_bytes(), np.uint8) for path in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["train"])
    parser.add_argument("run", choices=list(RUNS))
    arguments = parser.parse_args()
    single_threaded()
    config = RUNS[arguments.run]
    batches = Batches(texts("train"), config.sequences, config.model.sequence, BATCH_SEED)
    train(
        config,
        batches,
        ROOT / ".train" / arguments.run,
        keep_at=KEEP_AT,
        log=lambda line: print(line, flush=True),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
