"""docs/adding-a-policy.md: its example passes the checks, its tables name what there is."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from tests.planning.optima import read
from ultraep_sim.planning import EPLayout
from ultraep_sim.policies import DecisionPrice, Policy, PolicyState, registry

from . import checks
from .subject import Subject

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-policy.md").read_text(encoding="utf-8")


@pytest.fixture
def example(monkeypatch):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    names = {}
    exec(code, names)  # our own page
    cls = names["HottestOnce"]
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, cls))
    return Subject("hottest_once", cls)


@pytest.mark.parametrize(
    "layout",
    [EPLayout(6, 12, 2), EPLayout(6, 12, 1, domain_size=3), EPLayout(4, 2, 0), EPLayout(1, 3, 1)],
    ids=str,
)
def test_the_example_keeps_the_contract(example, layout):
    rng = np.random.default_rng(0)
    shape = (layout.num_ranks, layout.num_experts)
    batches = [rng.integers(0, 900, shape) ** 2 // 900 for _ in range(5)] + [np.zeros(shape, int)]
    policy = example.bind(layout)
    for loads in batches:
        plan = policy.plan(loads, policy.new_state())
        checks.check_plan(policy, plan, loads)
        checks.check_json(plan)
    checks.check_deterministic(example, layout, batches)
    checks.check_plans_last(example, layout, batches)
    checks.check_layout(policy, layout)
    checks.check_price(policy)
    checks.check_history(policy)
    checks.check_description(example.cls, "hottest_once")
    checks.check_options(example.cls)


def test_the_example_gains():
    """Loads 90 | 10 | 20: half of the gap of 80 moves."""
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1), names)
    policy = names["HottestOnce"](EPLayout(3, 3, 1))
    plan = policy.plan(np.array([[90, 10, 20]]), policy.new_state())
    assert plan.rank_loads.tolist() == [50, 50, 20]


def test_every_part_of_the_contract_is_explained():
    attributes = [name for name in Policy.__annotations__ if name.islower()]
    fields = [f.name for cls in (PolicyState, DecisionPrice) for f in dataclasses.fields(cls)]
    for name in attributes + fields:
        assert f"`{name}`" in PAGE, f"{name} is not on the page"
    assert f"holds {len(read())} of them" in PAGE
