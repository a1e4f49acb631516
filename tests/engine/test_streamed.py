"""Streamed means, percentiles and peaks are NumPy's, to the last bit."""

import numpy as np
import pytest

from ultraep_sim.engine import streamed


def cut(values, rng):
    return np.split(values, np.sort(rng.integers(0, len(values) + 1, 9)))


@pytest.mark.parametrize("count", [1, 2, 127, 65_536, 65_537, 300_001])
def test_mean_and_percentile(count):
    rng = np.random.default_rng(count)
    values = 1 + rng.exponential(size=count)
    assert streamed.mean(cut(values, rng), count) == values.mean()
    assert streamed.mean(cut(values, rng), count) != pytest.approx(values.mean() * 1.001, rel=1e-6)
    for percent in (0, 50, 99, 100):
        parts = cut(values, rng)
        assert streamed.percentile(lambda p=parts: p, count, percent) == np.percentile(
            values, percent
        )


def test_a_mask_is_followed_across_parts():
    rng = np.random.default_rng(0)
    values, mask = rng.random(1000), rng.random(1000) < 0.5
    kept = np.concatenate(list(streamed.counted(cut(values, rng), mask)))
    assert np.array_equal(kept, values[mask])


def test_the_hottest_micro_batches_have_the_peaks_of_all():
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 1000, (600, 8), np.int32)
    groups = np.repeat(np.arange(150), 4)
    where = np.stack([groups // 3, groups % 3], axis=1)
    ends = [0, 5, 6, 300]
    rows, ids = streamed.hottest(np.split(where, ends), np.split(pairs, ends))
    assert len(rows) <= 16

    def peak(values, of):
        return max(values[of == g].sum(axis=0).max() / (of == g).sum() for g in np.unique(of))

    assert rows.max() == pairs.max()
    assert peak(rows, ids) == peak(pairs, groups)
    assert rows.mean(axis=1).max() == pairs.mean(axis=1).max()
