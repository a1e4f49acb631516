"""A trace file of any size in little time, and the peak memory of a process that replays it.

    python -m tests.engine.big_trace FOLDER GIGABYTES

writes a file that is so large once its counts are in memory, and one of a tenth, and prints records
a second and the peak memory of a whole `ultraep-sim run` of each, with 64 sources and with none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.zipf import zipf_loads
from ultraep_sim.trace import TraceMeta
from ultraep_sim.trace.parquet_footer import META_KEY
from ultraep_sim.trace.sources import resource_rows

EXPERTS, TOP_K, LAYERS, RANKS, TOKENS = 256, 8, 8, 64, 8192

REPLAY = """
import json, resource, sys, time
from ultraep_sim.engine.run import run_scenario
from ultraep_sim.scenario import scenario_from_dict

scenario = scenario_from_dict({
    "name": "big", "model": "deepseek-v3-671b", "rack": "paper-rack64",
    "ep": {"ranks": 64, "slots_per_rank": 2, "pipeline_stages": 8}, "policies": ["ultraep"],
    "workload": {"trace": sys.argv[1]},
})
began = None

def progress(what, done, total):
    global began, last
    if began is None:  # kernels are compiled, the first block is done
        began = (time.perf_counter(), done)
    last = (time.perf_counter(), done)

run_scenario(scenario, progress=progress).write(sys.argv[2])
rate = (last[1] - began[1]) / max(last[0] - began[0], 1e-9)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"records": last[1], "records_per_s": rate, "peak_MB": peak / 1024}))
"""


def write_big(path: Path, records: int, sources: int, seed: int = 0) -> None:
    """Write a drawn block of micro-batches again and again, its layers shifted, steps going on."""
    rng = np.random.default_rng(seed)
    size = LAYERS * max(1, (8 << 20) // (4 * EXPERTS * sources * LAYERS))
    counts = np.empty((size, sources, EXPERTS), np.int32)
    for at in range(size):
        total = zipf_loads(rng, RANKS, EXPERTS, rng.uniform(1.5, 6))
        row = _whole_tokens(total * (RANKS * TOKENS * TOP_K / total.sum()))
        counts[at] = resource_rows(row[None], sources, TOP_K)
    meta = TraceMeta(
        model="drawn for a test", num_experts=EXPERTS, top_k=TOP_K, num_layers=LAYERS,
        source_ranks=sources, tokens_per_rank=TOKENS * RANKS // sources, phase="prefill",
        recorded="drawn by numpy", synthetic=True,
    )  # fmt: skip
    kind = pa.list_(pa.field("element", pa.int32(), nullable=False), EXPERTS)
    names = ("step", "micro_batch", "layer", "source_rank")
    fields = [pa.field(name, pa.int32(), nullable=False) for name in names]
    schema = pa.schema(
        [*fields, pa.field("counts", kind, nullable=False)], {META_KEY: meta.to_json().encode()}
    )
    at = np.arange(size, dtype=np.int32)
    source = np.tile(np.arange(sources, dtype=np.int32), size)
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for first in range(0, records, size):
            step, layer = (first + at) // LAYERS, at % LAYERS
            index = [np.repeat(x, sources) for x in (step, np.zeros_like(at), layer)]
            flat = pa.array(np.roll(counts, first // size, axis=2).ravel())
            lists = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            columns = [*(pa.array(x.astype(np.int32)) for x in index), pa.array(source), lists]
            writer.write_table(pa.table(columns, schema=schema))


def replayed(path: Path, out: Path) -> dict[str, float]:
    """Replay a file in a process of its own: records, records a second, peak memory."""
    command = [sys.executable, "-c", REPLAY, str(path), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _whole_tokens(loads: np.ndarray) -> np.ndarray:
    """Round to counts that sum to whole tokens, none above the tokens."""
    tokens = RANKS * TOKENS
    row = np.minimum(loads.astype(np.int64), tokens)
    left = tokens * TOP_K - int(row.sum())
    for e in np.argsort(row):
        more = min(left, tokens - int(row[e]))
        row[e] += min(more, 1 + left // 4)
        left = tokens * TOP_K - int(row.sum())
    assert left == 0
    return row.astype(np.int32)


def main(folder: Path, gigabytes: float) -> None:
    for sources in (1, RANKS):
        for share in (0.1, 1.0):
            records = int(share * gigabytes * 1e9 / (4 * EXPERTS * sources))
            path = folder / f"big-{sources}-{share}.parquet"
            write_big(path, records, sources)
            found = replayed(path, folder / "out")
            on_disk = path.stat().st_size / 1e6
            path.unlink()
            said = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
            print(f"{sources} sources: {said}, {on_disk:,.0f} MB on disk", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
