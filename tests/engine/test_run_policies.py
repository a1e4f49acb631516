"""Every built-in policy goes through a whole run, and its phases are its layer time."""

import numpy as np
import pytest

from ultraep_sim.engine.run import run_scenario
from ultraep_sim.policies.registry import BUILT_IN

NAMES = [cls.name for cls in BUILT_IN]


@pytest.mark.parametrize("phase", ["training", "prefill"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_phases_sum_to_the_layer_time_for_every_policy(small, phase, recompute):
    wanted = "[" + ", ".join(NAMES) + ", {name: mosaic, label: by-time, objective: time}]"
    result = run_scenario(
        small(
            f"policies={wanted}", f"workload.phase={phase}", f"engine.recompute={recompute}",
        )
    )  # fmt: skip
    labels = [*NAMES, "by-time"]
    assert [row["policy"] for row in result.rows] == labels
    table = result.records
    column = {name: table[name].to_numpy() for name in table.column_names if name != "rank_pairs"}
    for label in labels:
        mine = column["policy"] == label
        assert mine.sum() == 24
        phases = {n: v[mine] for n, v in column.items() if n.startswith(("fwd_", "bwd_"))}
        for values in phases.values():
            assert (values >= 0).all()
        np.testing.assert_allclose(sum(phases.values()), column["layer_time_s"][mine], rtol=1e-12)
        both = column["forward_s"][mine] + column["backward_s"][mine]
        np.testing.assert_allclose(both, column["layer_time_s"][mine], rtol=1e-12)
        assert (column["backward_s"][mine] > 0).all() == (phase == "training")
    memory = {use["policy"]: use["parts"]["slot weights"] for use in result.memory}
    assert memory["none"] == 0 < memory["fastermoe"] == memory["ultraep"]
