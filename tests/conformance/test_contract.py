"""What a policy says about itself: names, promises, options, prices, history."""

import pytest

from ultraep_sim.planning import EPLayout

from . import checks
from .subject import COSTS

LAYOUTS = [
    EPLayout(8, 16, 2),
    EPLayout(1, 1, 0),
    EPLayout(6, 4, 1),
    EPLayout(8, 24, 3, domain_size=3),
    EPLayout(4, 6, 1, home=[3, 3, 3, 0, 1, 1]),
]


def test_it_describes_itself_in_one_line_each(subject):
    checks.check_description(subject.cls, subject.name)


def test_options_are_documented_and_have_defaults(subject):
    checks.check_options(subject.cls)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_layout_is_kept_but_for_slots(subject, layout):
    checks.check_layout(subject.bind(layout), layout)


def test_impossible_options_are_refused_by_name(subject):
    checks.check_bad_options(subject, LAYOUTS[0])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_prices_have_sources(subject, layout):
    checks.check_price(subject.bind(layout))


def test_history_and_cadence_agree(subject):
    checks.check_history(subject.bind(LAYOUTS[0]))


@pytest.mark.parametrize("cost", COSTS)
def test_a_cost_model_is_only_weighed(subject, cost):
    """Plans stay valid whatever things cost; a policy without the option is planned as it is."""
    import inspect

    import numpy as np

    weighs = "cost" in inspect.signature(subject.cls).parameters
    layout = EPLayout(8, 16, 2)
    policy = subject.bind(layout, **({"cost": COSTS[cost]} if weighs else {}))
    loads = np.random.default_rng(0).integers(0, 4000, (8, 16)) ** 2 // 4000
    checks.check_plan(policy, policy.plan(loads, policy.new_state()), loads)
