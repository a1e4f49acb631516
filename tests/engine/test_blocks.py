"""Blocks of records planned at once give, bit for bit, what one record after the other gives."""

from dataclasses import fields

import numpy as np
import pytest

from ultraep_sim.engine.replay import PolicyReplay, replay, replay_blocks
from ultraep_sim.planning import EPLayout, LoadStats
from ultraep_sim.policies import get_policy
from ultraep_sim.policies.none import NoBalancing
from ultraep_sim.trace import Record
from ultraep_sim.trace.container import Block


def drawn(ranks, experts, records=40):
    rng = np.random.default_rng(ranks)
    weight = rng.dirichlet(np.full(experts, 0.3), records)
    loads = [rng.multinomial(999, w, ranks).astype(np.int32) for w in weight]
    return np.array([(n // 4, 0, n % 4) for n in range(records)], np.int32), np.stack(loads)


def found(how, policy, **options):
    item, out = PolicyReplay("p", policy, 128, 16, **options), []

    def keep(chunk):
        stats = {f.name: getattr(chunk.stats, f.name).copy() for f in fields(LoadStats)}
        keys = np.stack([chunk.step, chunk.micro_batch, chunk.layer])
        out.append(
            {**stats, "keys": keys.T, "warm": chunk.warm.copy(), "before": chunk.imbalance_before}
        )

    how([item], keep)
    return {name: np.concatenate([part[name] for part in out]) for name in out[0]}, item


def both(make, keys, loads, sizes=(7, 1, 32), **options):
    rows = [Record(*key, one) for key, one in zip(keys.tolist(), loads, strict=True)]
    ends = np.cumsum(sizes)[:-1]
    parts = [Block(*p) for p in zip(np.split(keys, ends), np.split(loads, ends), strict=True)]
    one, _ = found(lambda items, keep: replay(rows, items, keep), make(), **options)
    many, item = found(lambda items, keep: replay_blocks(parts, items, keep), make(), **options)
    return one, many, item


@pytest.mark.parametrize("name", ["none", "ultraep", "ideal", "eplb", "eplb_plus", "predictive"])
@pytest.mark.parametrize("domain", [8, 4])
@pytest.mark.parametrize("options", [{}, {"any_tree": True}, {"top_k": 3}])
def test_blocks_give_what_records_give(name, domain, options):
    layout = EPLayout(8, 20, 2, domain)
    given = {"cadence_steps": 2, "window_steps": 2} if name == "eplb" else {}
    keys, loads = drawn(8, 20)
    one, many, item = both(lambda: get_policy(name, layout, **given), keys, loads, **options)
    assert item.in_blocks == (
        name == "ideal" or (name in ("none", "ultraep") and not options.get("top_k"))
    )
    for column, values in one.items():
        assert np.array_equal(values, many[column]), column
    assert name != "ultraep" or one["replicas"].max() > 0


def test_relays_are_counted_alike():
    keys, loads = drawn(16, 16)
    one, many, _ = both(lambda: get_policy("ultraep", EPLayout(16, 16, 2)), keys, loads)
    assert one["relayed"].any()
    assert all(np.array_equal(values, many[name]) for name, values in one.items())


def test_a_subclass_with_its_own_plan_is_asked_for_every_record():
    asked = []

    class Counts(NoBalancing):
        def plan(self, loads, state):
            asked.append(state.step)
            return super().plan(loads, state)

    keys, loads = drawn(8, 20)
    both(lambda: Counts(EPLayout(8, 20, 2)), keys, loads)
    assert len(asked) == 2 * len(keys)
