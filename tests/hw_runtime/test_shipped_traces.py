"""The shipped traces are what their cards and metadata say."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
TRACES = ROOT / "traces"
sys.path.insert(0, str(TRACES))

import cards  # noqa: E402
import make_traces  # noqa: E402

from ultraep_sim.trace import load_trace  # noqa: E402

NAMES = (
    "train-aux",
    "train-aux-steps",
    "train-bias",
    "train-bias-steps",
    "prefill-switch",
)
RUNS = ("train-aux", "train-bias")


@functools.cache
def loads_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [n] and loads [n, layers, sources, experts] of a shipped trace."""
    trace = load_trace(TRACES / f"{name}.parquet")
    records = list(trace)
    layers = trace.meta.num_layers
    assert [r.layer for r in records] == list(range(layers)) * (len(records) // layers)
    loads = np.stack([r.loads for r in records])
    return np.array([r.step for r in records])[::layers], loads.reshape(
        -1, layers, *loads.shape[1:]
    )


def test_the_directory_holds_these_traces_and_stays_small() -> None:
    files = list(TRACES.glob("*.parquet"))
    assert sorted(f.stem for f in files) == sorted(NAMES)
    assert sum(f.stat().st_size for f in TRACES.iterdir() if f.is_file()) <= 20e6


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_that_of_the_file(name: str) -> None:
    path = TRACES / f"{name}.parquet"
    written = path.with_suffix(".md").read_text()
    assert written == cards.card(path), "run: python traces/make_traces.py cards"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in written


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_is_that_of_the_model(name: str) -> None:
    meta = load_trace(TRACES / f"{name}.parquet").meta
    config = make_traces.RUNS[meta.notes["run"]]
    assert meta.synthetic is False
    assert meta.phase == ("prefill" if name == "prefill-switch" else "training")
    model = config.model
    assert (meta.num_layers, meta.num_experts, meta.top_k) == (8, 128, 8)
    assert (model.layers, model.experts, model.top_k) == (8, 128, 8)
    manifest = (TRACES / "corpus.json").read_bytes()
    assert meta.notes["corpus_manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    if meta.phase == "training":
        assert meta.notes["config"]["model"]["balance"] == model.balance
        assert meta.notes["config"]["steps"] == config.steps
        assert meta.notes["config"]["seed"] == config.seed


@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_counted_top_k_times(name: str) -> None:
    meta = load_trace(TRACES / f"{name}.parquet").meta
    _, loads = loads_of(name)
    assert loads.shape[1:] == (8, meta.source_ranks, 128)
    assert (loads.sum(-1) == meta.tokens_per_rank * meta.top_k).all()


@pytest.mark.parametrize("run", RUNS)
def test_windows_are_those_of_the_metadata_and_agree_with_the_whole_run(run: str) -> None:
    steps, loads = loads_of(run)
    windows = load_trace(TRACES / f"{run}.parquet").meta.sampling["steps"]
    assert steps.tolist() == [s for a, b in windows for s in range(a, b)]
    assert windows[0][0] == 0
    assert windows[0][1] >= make_traces.FIRST_STEPS
    every, summed = loads_of(f"{run}-steps")
    assert every.tolist() == list(range(make_traces.STEPS))
    np.testing.assert_array_equal(loads.sum(2), summed[steps][:, :, 0])


@pytest.mark.parametrize("run", RUNS)
def test_the_shipped_bytes_are_those_the_sources_saw(run: str) -> None:
    notes = load_trace(TRACES / f"{run}.parquet").meta.notes
    data = np.load(TRACES / "first-steps.npz", allow_pickle=False)
    assert data["bytes"].shape == (20, 64, 129)
    assert data["names"].tolist() == notes["domains"]
    for step in range(20):
        said = [int(digit) for digit in notes["domain_of_source"][str(step)]]
        assert said == data["domains"][step].tolist()
    assert notes["domains"] == sorted(json.loads((TRACES / "corpus.json").read_text())["domains"])


def test_a_step_of_the_model_agrees_with_the_trace() -> None:
    # The whole check (`make trace-check`) takes a minute; its first step takes a second.
    config = make_traces.RUNS["train-aux"]
    batches = make_traces.shipped_batches(TRACES / "first-steps.npz")
    with make_traces.single_threaded():
        assert make_traces.check(config, batches, TRACES / "train-aux.parquet", 1)


def test_the_routers_learned_and_the_domains_differ() -> None:
    # What a trace is recorded for: training drifts, and a change of domain changes the load.
    _, train = loads_of("train-aux-steps")
    early, late = train[:50, :, 0].mean(0), train[-50:, :, 0].mean(0)
    assert cards.correlation(early, late).mean() < 0.5
    meta = load_trace(TRACES / "prefill-switch.parquet").meta
    _, prefill = loads_of("prefill-switch")
    summed = prefill.sum(2).astype(float)
    segments = meta.notes["segments"]
    for (_, start, end), (name, _, _) in itertools.pairwise(segments):
        inside = cards.correlation(summed[start : end - 1], summed[start + 1 : end]).mean()
        across = cards.correlation(summed[end - 1], summed[end]).mean()
        # Into "mixed" the change is mild: it holds every domain.
        assert across < inside - (0.02 if name == "mixed" else 0.15), name
