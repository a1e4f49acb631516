from __future__ import annotations

import numpy as np
import pytest

from ultraep_sim.errors import TraceError
from ultraep_sim.trace import load_trace, mapped
from ultraep_sim.trace.mapped import map_trace, use_mapped

SHIPPED = "traces/prefill-switch.parquet"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.parquet"
    load_trace(SHIPPED).select(steps=slice(0, 3)).write(path)
    yield path
    use_mapped({})


def test_a_mapped_trace_is_the_trace(small, tmp_path):
    plain = load_trace(small)
    records, keys, digest = list(plain), plain.keys(), plain.digest
    folder = map_trace(small, tmp_path / "maps")
    use_mapped({str(small.absolute()): str(folder)})
    found = load_trace(small)
    assert type(found._source).__name__ == "MappedSource"
    assert found.meta == plain.meta
    assert (found.digest, found.num_records) == (digest, len(records))
    np.testing.assert_array_equal(found.keys(), keys)
    for one, other in zip(found.select(layers=2), plain.select(layers=2), strict=True):
        assert one[:3] == other[:3]
        np.testing.assert_array_equal(one.loads, other.loads)
    blocks = list(found._source.blocks(found.select(layers=2)._selection))
    kept = [r.loads for r in plain.select(layers=2)]
    np.testing.assert_array_equal(np.concatenate([block.loads for block in blocks]), kept)
    for record in found:
        record.loads[:] += 1  # the receiver's own
    np.testing.assert_array_equal(next(iter(found)).loads, records[0].loads)


def test_it_is_decoded_once_and_not_where_it_is_too_large(small, tmp_path, monkeypatch):
    folder = map_trace(small, tmp_path / "maps")
    before = (folder / "loads.npy").stat().st_mtime_ns
    assert map_trace(small, tmp_path / "maps") == folder
    assert (folder / "loads.npy").stat().st_mtime_ns == before
    monkeypatch.setattr(mapped, "MAX_BYTES", 100)
    assert map_trace(small, tmp_path / "others") is None


def test_a_damaged_trace_is_told_and_leaves_no_map(small, tmp_path):
    content = bytearray(small.read_bytes())
    content[len(content) // 3] ^= 0xFF
    small.write_bytes(content)
    with pytest.raises(TraceError):
        map_trace(small, tmp_path / "maps")
    assert not any(
        path.is_dir() and path.suffix != ".tmp" for path in (tmp_path / "maps").iterdir()
    )
