"""The published breakdown: what is fitted must fit, what is predicted must miss as we say it does.

The bands of predicted rows are today's known misses, written down so that a change of the model
shows. They are not aims.
"""

import pytest

from . import anchors

# Predicted from the imbalance alone: relative error, low and high.
PREDICTED = {
    "forward moe_compute none": (-0.12, -0.06),
    "forward token_all_to_all none": (-0.35, -0.28),
    "forward moe_compute ultraep": (-0.10, -0.05),
    "forward token_all_to_all ultraep": (-0.26, -0.19),
    # The sequence length is not published; 8192 is the public recipe's.
    "forward others ideal": (-0.42, -0.32),
    "forward others none": (-0.43, -0.33),
    "forward others ultraep": (-0.38, -0.28),
    "backward others ideal": (0.0, 0.15),
}


def by_name(rack: str = "paper-rack64") -> dict[str, anchors.Row]:
    return {row.what: row for row in anchors.breakdown(rack)}


@pytest.mark.parametrize("what", sorted(anchors.FITTED))
def test_ideal_rows_are_what_was_fitted(what: str) -> None:
    assert abs(by_name()[what].error) < 0.005


@pytest.mark.parametrize("what", sorted(PREDICTED))
def test_predicted_rows_miss_as_documented(what: str) -> None:
    low, high = PREDICTED[what]
    assert low < by_name()[what].error < high


def test_public_kernel_tables_alone_come_close_to_the_paper() -> None:
    """Independent of the paper: GB200 expert GEMM fitted to public tables."""
    assert abs(by_name("gb200-nvl72")["forward moe_compute ideal"].error) < 0.08


def test_overhead_is_near_the_published_hot_path() -> None:
    """Planning 56 us, tasks 38 us, distribution 158 us; the paper says 0.3 ms a layer in all."""
    times = anchors.simulate("ultraep")
    forward = sum(times.critical[p][0] for p in ("fwd_plan", "fwd_distribute", "fwd_reroute"))
    assert 0.25e-3 < forward < 0.35e-3


@pytest.mark.skipif(
    not anchors.ANCHORS.is_dir(), reason="the published figures are not beside the repository"
)
def test_direct_distribution_rows() -> None:
    rows = anchors.distribution()
    assert len(rows) >= 3
    assert all(abs(row.error) < 0.005 for row in rows)
