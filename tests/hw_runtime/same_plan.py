"""A plan made on the device beside the CPU solver's: list, instances and header."""

from __future__ import annotations

from typing import Any

import numpy as np

from hw_runtime.device_plan import DevicePlan
from ultraep_sim.planning.assemble import plan_from_replicas


def assert_same_plan(plan: DevicePlan, record: int, total: np.ndarray, want: Any) -> int:
    """Compare a record with what the CPU found for expert loads ``total``; return the replicas."""
    got = plan.solution(record)
    assert got.tau == want.tau
    for name in ("expert", "rank", "quota"):
        assert np.array_equal(getattr(got, name), getattr(want, name)), name
    assert int(plan.header[record, 3]) == int(total.sum())
    made = plan_from_replicas(plan.layout, total[None], want.expert, want.rank, want.quota)
    n = len(made.rank)
    assert np.array_equal(plan.offsets[record].cpu().numpy(), made.offsets)
    for name in ("rank", "slot", "quota"):
        have = getattr(plan, f"instance_{name}")[record, :n].cpu().numpy()
        assert np.array_equal(have, getattr(made, name)), name
    return len(want.expert)
