"""What a sampled trace means is said, or the replay is refused."""

import pytest

from tests.engine.conftest import small_trace
from ultraep_sim.engine.run import run_scenario
from ultraep_sim.errors import PolicyError, ScenarioError
from ultraep_sim.trace.ranks import select_ranks

ONLY = "policies=[none,ultraep]"


@pytest.fixture
def sampled(small, tmp_path):
    """Return a function that runs the small scenario over a changed trace."""

    def run(change, *sets, trace=None):
        changed = change(trace or small_trace())
        scenario = small(*sets)
        changed.write(tmp_path / "small.parquet")
        return run_scenario(scenario)

    return run


def test_rows_of_some_ranks_are_refused_unless_scaled_on_purpose(sampled):
    with pytest.raises(ScenarioError, match="2 source ranks only"):
        sampled(lambda t: select_ranks(t, slice(0, 2)), ONLY, "workload.tokens_per_rank=null")
    result = sampled(lambda t: select_ranks(t, slice(0, 2)), ONLY)
    assert any("2 source ranks" in note for note in result.notes)


def test_missing_steps_and_layers_stand_in_the_notes(sampled):
    notes = sampled(lambda t: t.select(steps=slice(0, 12, 3), layers=1), ONLY).notes
    assert any("one step in 3" in note for note in notes)
    assert any("1 of 2 layers" in note for note in notes)
    assert not any("the trace has" in note for note in sampled(lambda t: t, ONLY).notes)


def test_a_policy_that_looks_below_needs_neighbouring_layers(sampled):
    below = "policies=[none,{name: predictive, source: layer}]"
    trace = small_trace(layers=3)
    with pytest.raises(PolicyError, match="left layers out"):
        sampled(lambda t: t.select(layers=slice(0, 3, 2)), below, trace=trace)
    sampled(lambda t: t.select(layers=slice(1, 3)), below, trace=trace)
    sampled(lambda t: t.select(layers=slice(0, 3, 2)), ONLY, trace=trace)
