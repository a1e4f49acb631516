"""Damaged files: a clear error or the right content, never another exception."""

import numpy as np
import pytest

from tests.trace.toys import toy_meta, toy_trace
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import load_trace

FLIPS = 400


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    meta = toy_meta(source_ranks=2, notes={"seed": 7})
    trace = toy_trace(meta, steps=2)
    path = trace.write(tmp_path_factory.mktemp("fuzz") / "whole.parquet")
    return path.read_bytes(), trace.meta, list(trace)


def outcome(path, meta, records):
    """Read a damaged file: the error's text, or None where the content is right."""
    text = None
    try:
        trace = load_trace(path)
        found = list(trace)
        keys = trace.keys()
    except TraceError as error:
        text = str(error)
    if text is not None:
        assert "\n" not in text
        assert str(path) in text
        return text
    assert trace.meta == meta
    assert len(found) == len(records) == len(keys)
    for a, b in zip(found, records, strict=True):
        assert a[:3] == b[:3]
        assert np.array_equal(a.loads, b.loads)
    return None


def test_truncated_anywhere(whole, tmp_path):
    data, meta, records = whole
    rng = np.random.default_rng(1)
    path = tmp_path / "cut.parquet"
    for size in {0, 1, 4, 12, len(data) - 1, *rng.integers(0, len(data), 100).tolist()}:
        path.write_bytes(data[:size])
        assert outcome(path, meta, records) is not None


@pytest.mark.parametrize("flips", [1, 3])
def test_flipped_bytes(whole, tmp_path, flips):
    data, meta, records = whole
    rng = np.random.default_rng(2 + flips)
    path = tmp_path / "flipped.parquet"
    found = []
    for _ in range(FLIPS):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        at = rng.choice(len(data), size=flips, replace=False)
        damaged[at] ^= rng.integers(1, 256, flips).astype(np.uint8)
        path.write_bytes(damaged.tobytes())
        found.append(outcome(path, meta, records))
    # Most of a small file is metadata, so most damage must be noticed.
    assert sum(error is not None for error in found) > FLIPS // 2


def test_pieces_removed_or_doubled(whole, tmp_path):
    data, meta, records = whole
    rng = np.random.default_rng(5)
    path = tmp_path / "moved.parquet"
    for _ in range(100):
        start, stop = sorted(rng.integers(4, len(data) - 8, 2).tolist())
        path.write_bytes(data[:start] + data[stop:])
        outcome(path, meta, records)
        path.write_bytes(data[:stop] + data[start:])
        outcome(path, meta, records)
