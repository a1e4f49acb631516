"""A trace ten times as long takes no more memory; `tests.engine.big_trace` does it with 5 GB."""

from tests.engine.big_trace import replayed, write_big


def test_peak_memory_does_not_grow_with_the_trace(tmp_path):
    peaks = []
    for records in (2_000, 20_000):
        write_big(tmp_path / "big.parquet", records, 1)
        found = replayed(tmp_path / "big.parquet", tmp_path / "out")
        assert found["records"] >= records
        peaks.append(found["peak_MB"])
    # What used to grow: 18 MB of counts, and more than 60 MB of columns with their copies.
    assert peaks[1] < peaks[0] + 40
