"""Training is deterministic and resumable, and the reproduction check can fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pyarrow")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "traces"))

import make_traces  # noqa: E402

from hw_runtime.record import Sources  # noqa: E402
from hw_runtime.record.recorder import RouterRecorder  # noqa: E402
from hw_runtime.record.tiny_moe import TinyMoEConfig  # noqa: E402
from hw_runtime.record.train import (  # noqa: E402
    Batches,
    TrainConfig,
    Trainer,
    single_threaded,
    train,
)
from ultraep_sim.trace import Trace, TraceMeta  # noqa: E402

MODEL = TinyMoEConfig(layers=2, experts=8, top_k=2, width=16, heads=2, expert_width=8, sequence=16)
CONFIG = TrainConfig(
    model=MODEL, steps=7, sequences=4, micro_batches=2, warmup=3, checkpoint_every=3
)
TEXTS = {
    "low": np.arange(2000, dtype=np.uint64).astype(np.uint8) % 61,
    "high": (np.arange(3000, dtype=np.uint64) ** 2 % 127).astype(np.uint8) + 128,
}


def batches(seed: int = 5) -> Batches:
    return Batches(TEXTS, CONFIG.sequences, MODEL.sequence, seed)


def counts_in(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    counts, losses = [], []
    for path in sorted(directory.glob("counts-*.npz")):
        data = np.load(path, allow_pickle=False)
        counts.append(data["counts"])
        losses.append(data["loss"])
    return np.concatenate(counts), np.concatenate(losses)


def quiet(_line: str) -> None:
    return


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with single_threaded():
        yield


@pytest.mark.parametrize("flushing", [False, True])
def test_what_is_set_for_training_is_put_back(flushing: bool, tmp_path: Path) -> None:
    def flushes() -> bool:
        # numpy feels torch's setting: it belongs to the thread of the processor.
        return bool(np.float64(1e-310) * np.float64(1) == 0)

    seen = []

    def source(step: int, micro_batch: int) -> np.ndarray:
        seen.append((torch.get_num_threads(), flushes()))
        return batches()(step, micro_batch)

    torch.set_num_threads(2)
    torch.set_flush_denormal(flushing)
    train(CONFIG, source, tmp_path, log=quiet)
    assert set(seen) == {(1, True)}
    assert (torch.get_num_threads(), flushes()) == (2, flushing)
    with pytest.raises(KeyError), single_threaded():
        raise KeyError
    assert (torch.get_num_threads(), flushes()) == (2, flushing)


@pytest.mark.parametrize("balance", ["aux", "bias"])
def test_two_runs_are_equal(balance: str) -> None:
    config = replace(CONFIG, model=replace(MODEL, balance=balance))
    first, second = (list(Trainer(config, batches())) for _ in range(2))
    assert len(first) == config.steps
    for (_, a, loss_a), (_, b, loss_b) in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert loss_a == loss_b


@pytest.mark.parametrize("balance", ["aux", "bias"])
def test_resumed_equals_uninterrupted(balance: str, tmp_path: Path) -> None:
    config = replace(CONFIG, model=replace(MODEL, balance=balance))
    train(config, batches(), tmp_path / "whole", log=quiet)

    class KilledError(Exception):
        pass

    def dying(step: int, micro_batch: int) -> np.ndarray:
        if step == 5:  # between the checkpoints at 3 and 6: step 4 is lost and done again
            raise KilledError
        return batches()(step, micro_batch)

    with pytest.raises(KilledError):
        train(config, dying, tmp_path / "cut", log=quiet)
    lines: list[str] = []
    train(config, batches(), tmp_path / "cut", log=lines.append)
    assert lines[0] == "resumed at step 3"
    for a, b in zip(counts_in(tmp_path / "whole"), counts_in(tmp_path / "cut"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(counts_in(tmp_path / "cut")[0]) == config.steps


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(CONFIG, batches(), tmp_path, log=quiet)
    with pytest.raises(ValueError, match="another configuration"):
        train(replace(CONFIG, seed=9), batches(), tmp_path, log=quiet)


def test_counts_are_whole_and_depend_on_seed_and_text() -> None:
    runs = [
        Trainer(CONFIG, batches()).train_step()[0],
        Trainer(replace(CONFIG, seed=1), batches()).train_step()[0],
        Trainer(CONFIG, batches(6)).train_step()[0],
    ]
    assert runs[0].shape == (2, 2, 4, 8)
    assert (runs[0].sum(-1) == MODEL.sequence * MODEL.top_k).all()
    assert (runs[0] != runs[1]).any()
    assert (runs[0] != runs[2]).any()
    assert (runs[0][0] != runs[0][1]).any(), "micro-batches differ"


def test_one_sequence_is_one_domain() -> None:
    source = batches()
    data, domains = source(3, 1), source.domains(3, 1)
    assert data.shape == (4, 17)
    np.testing.assert_array_equal(data.min(1) >= 128, domains == 1)


def test_the_selection_bias_moves_towards_balance() -> None:
    trainer = Trainer(replace(CONFIG, model=replace(MODEL, balance="bias")), batches())
    counts, _ = trainer.train_step()
    load = counts.sum((0, 2), dtype=np.int64)
    for router, row in zip(trainer.model.routers(), load, strict=True):
        wanted = MODEL.bias_step * np.sign(row.mean() - row)
        np.testing.assert_allclose(router.selection_bias.numpy(), wanted, atol=1e-7)


def trace_of(steps: int) -> tuple[TraceMeta, list[tuple[int, int, int, np.ndarray]]]:
    meta = TraceMeta(
        model="tiny", num_experts=8, top_k=2, num_layers=2, source_ranks=4, tokens_per_rank=16,
        phase="training", recorded="by a test", synthetic=False,
    )  # fmt: skip
    records = []
    for step, counts, _ in Trainer(replace(CONFIG, steps=steps), batches()):
        for micro_batch, layers in enumerate(counts):
            for layer, loads in enumerate(layers):
                records.append((step, micro_batch, layer, loads.astype(np.int32)))
    return meta, records


def moved(loads: np.ndarray, pairs: int) -> np.ndarray:
    """Give ``pairs`` pairs of the first source to its coldest expert; sums stay."""
    loads = loads.copy()
    target = int(loads[0].argmin())
    for _ in range(pairs):
        donor = max((e for e in range(8) if e != target), key=lambda e: loads[0, e])
        loads[0, donor] -= 1
        loads[0, target] += 1
    return loads


@pytest.mark.parametrize(("pairs", "good"), [(0, True), (1, True), (9, False)])
def test_check_fails_on_a_perturbed_trace(
    pairs: int, good: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(CONFIG, steps=3)
    meta, records = trace_of(3)
    # 12 records of 128 pairs: one pair moved is 2/1536 = 0.13 %, nine are 1.17 %.
    records[5] = (*records[5][:3], moved(records[5][3], pairs))
    path = tmp_path / "t.parquet"
    Trace.from_records(meta, records).write(path)
    assert make_traces.check(config, batches(), path, 3) is good
    printed = capsys.readouterr().out
    assert f"L1 distance {100 * 2 * pairs / 1536:.4f} %" in printed
    assert ("OUTSIDE" in printed) is not good


def test_check_fails_on_missing_steps(tmp_path: Path) -> None:
    meta, records = trace_of(3)
    path = tmp_path / "t.parquet"
    Trace.from_records(meta, [r for r in records if r[0] != 1]).write(path)
    assert make_traces.check(replace(CONFIG, steps=3), batches(), path, 3) is False


SUMMED = """
import sys, torch
from hw_runtime.record import RouterRecorder, Sources
from hw_runtime.record.tiny_moe import TinyMoE, TinyMoEConfig
rank = int(sys.argv[1])
torch.distributed.init_process_group(
    "gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2
)
model = TinyMoE(TinyMoEConfig(layers=2, experts=8, top_k=2, width=16, heads=2, expert_width=8))
sources = Sources.this_rank(rank, 2)
with RouterRecorder(model, sys.argv[3], sources=sources, reduce=True) as recorder:
    for step in range(2):
        model(torch.full((3, 4), 100 * rank + step))
        recorder.end_step()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_write_one_trace(tmp_path: Path) -> None:
    import os
    import subprocess

    from hw_runtime.record.tiny_moe import TinyMoE
    from ultraep_sim.trace import load_trace

    path = tmp_path / "t.parquet"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SUMMED]
    processes = [
        subprocess.Popen([*command, str(r), str(tmp_path / "store"), str(path)], env=env)
        for r in range(2)
    ]
    assert [p.wait() for p in processes] == [0, 0]
    read = list(load_trace(path))
    assert [(r.step, r.layer) for r in read] == [(0, 0), (0, 1), (1, 0), (1, 1)]

    rows: list[np.ndarray] = []

    class Rows:
        def append(self, step: int, micro_batch: int, layer: int, loads: np.ndarray) -> None:
            rows.append(loads[0])

    model = TinyMoE(replace(MODEL, sequence=128))
    for rank in range(2):
        with RouterRecorder(model, Rows(), sources=Sources.one()) as recorder, torch.no_grad():
            for step in range(2):
                model(torch.full((3, 4), 100 * rank + step))
                recorder.end_step()
    for index, record in enumerate(read):
        np.testing.assert_array_equal(record.loads, [rows[index], rows[4 + index]])
