"""Draw the loads of pipeline-depth.yaml in which one layer of eight carries all the imbalance.

``python scenarios/what-if/make_traces.py`` writes them beside this file. SYNTHETIC.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ultraep_sim.trace import Record, Trace, synthesize

FOLDER = Path(__file__).parent
LAYERS, MICRO_BATCHES, STEPS = 8, 16, 1
MEANS = (1.1, 1.3, 1.6)
HOT_LAYER = 3
#: What is left of imbalance where nothing is skewed: the chance of the draw.
EVEN = 1.02


def drawn(imbalance: float, layers: int) -> Trace:
    """Return loads of layers that are all alike, for the 64 ranks of Qwen3-235B."""
    return synthesize(
        128, 8, layers, STEPS, 1, 8192 * 64, imbalance, 64, seed=7, micro_batches=MICRO_BATCHES
    )


def one_hot_layer(mean: float) -> Trace:
    """Return loads with the given mean imbalance, one layer far above all others."""
    hot = LAYERS * mean - (LAYERS - 1) * EVEN
    even, skewed = drawn(EVEN, LAYERS), drawn(hot, 1)

    def records() -> Iterator[Record]:
        for calm, busy in zip((r for r in even if r.layer == HOT_LAYER), iter(skewed), strict=True):
            at = {HOT_LAYER: busy.loads}
            for layer in range(LAYERS):
                place = (calm.step, calm.micro_batch, layer)
                yield Record(*place, at.get(layer, by_place[place]))

    by_place = {(r.step, r.micro_batch, r.layer): r.loads for r in even}
    meta = even.meta.with_note("one_hot_layer", {"layer": HOT_LAYER, "imbalance": round(hot, 3)})
    return Trace.from_records(meta, records())


def main() -> None:
    """Write one trace a mean."""
    for mean in MEANS:
        print(one_hot_layer(mean).write(FOLDER / f"one-hot-layer-{mean}.parquet"))


if __name__ == "__main__":
    main()
