import numpy as np
import pytest

from ultraep_sim.engine.in_flight import in_flight
from ultraep_sim.errors import InputError


@pytest.mark.parametrize(
    ("micro_batches", "held"), [(16, [4, 3, 2, 1]), (2, [2, 2, 2, 1]), (1, [1] * 4)]
)
def test_1f1b_holds_as_many_as_stages_follow_or_as_there_are(
    micro_batches: int, held: list[int]
) -> None:
    assert [stage.most for stage in in_flight("1f1b", "none", 4, 1, micro_batches)] == held
    assert [s.most for s in in_flight("1f1b", "two_batch", 4, 1, 2 * micro_batches)] == [
        2 * count for count in held
    ]


def test_moments_of_the_first_of_two_stages_by_hand() -> None:
    """F0, F1, B0, F2, B1, B2: what runs is held, and released after."""
    first = in_flight("1f1b", "none", 2, 1, 3)[0]
    rows = np.concatenate((first.held, first.forward, first.backward), axis=1)
    assert rows.tolist() == [[1, 0, 1], [1, 1, 0], [2, 0, 1], [2, 1, 0]]


def test_a_joint_unit_runs_both_its_micro_batches() -> None:
    for stage in in_flight("1f1b", "dualpipe", 2, 1, 8):
        joint = (stage.forward[:, 0] > 0) & (stage.backward[:, 0] > 0)
        assert joint.any()
        assert stage.held[joint, 0].max() == stage.most
    for stage in in_flight("1f1b", "two_batch", 2, 1, 8):
        assert set(stage.forward[:, 0].tolist()) == set(stage.backward[:, 0].tolist()) == {0, 2}


def test_interleaved_chunks_are_counted_apart() -> None:
    """P=2, V=2, M=4, first stage: w = 4, then F and B in turn; chunk 0 twice, chunk 1 twice."""
    first = in_flight("interleaved", "none", 2, 2, 4)[0]
    assert first.held.shape[1] == 2
    assert first.most == 5
    at = first.held.sum(axis=1) == 5
    assert (3, 2) in {tuple(row) for row in first.held[at].tolist()}


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(InputError, match=r"^micro_batches: "):
        in_flight("1f1b", "two_batch", 2, 1, 3)
