"""The relay rule: who forwards, how many copies, and when not at all."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.planning import relay_tree


def instances(*hosts):
    """Offsets and ranks of experts given as lists of hosts, main first."""
    offsets = np.cumsum([0] + [len(h) for h in hosts])
    return offsets, np.array([r for h in hosts for r in h], np.int32)


def sends(parent, offsets, ranks):
    replicas = np.delete(np.arange(offsets[-1]), offsets[:-1])
    return np.bincount(parent[replicas], minlength=ranks)


def test_nine_replicas_use_three_relays():
    offsets, rank = instances(list(range(10)), [10], [11])
    parent, relayed = relay_tree(offsets, rank, 12, 12)
    assert relayed
    assert sends(parent, offsets, 12).tolist() == [3, 2, 2, 2] + [0] * 8


def test_three_replicas_go_direct():
    offsets, rank = instances([0, 1, 2, 3])
    parent, relayed = relay_tree(offsets, rank, 12, 12)
    assert not relayed
    assert (parent == 0).all()


def test_no_relay_in_a_domain_of_eight():
    offsets, rank = instances(list(range(8)))
    assert not relay_tree(offsets, rank, 8, 8)[1]


def test_no_relay_without_a_gain_of_two_copies():
    """Expert 0 could be relayed, but rank 20 sends 7 small fan-outs and stays the busiest."""
    others = [[20, 1], [20, 2], [20, 3], [20, 4], [20, 5], [20, 6], [20, 7]]
    offsets, rank = instances([0, 8, 9, 10, 11, 12, 13], *others)
    parent, relayed = relay_tree(offsets, rank, 24, 24)
    assert not relayed
    assert sends(parent, offsets, 24)[0] == 6


def test_busy_senders_are_spared():
    """Rank 1 already sends three copies, so it is not chosen as a relay."""
    offsets, rank = instances([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 10, 11, 12])
    parent, relayed = relay_tree(offsets, rank, 16, 16)
    assert relayed
    assert sends(parent, offsets, 16)[1] == 3


@given(st.integers(0, 2**32 - 1), st.integers(9, 40))
@settings(max_examples=100, deadline=None)
def test_every_replica_is_reached_in_two_stages_and_nobody_sends_more(seed, ranks):
    rng = np.random.default_rng(seed)
    hosts = [rng.permutation(ranks)[: int(rng.integers(1, ranks + 1))].tolist() for _ in range(6)]
    offsets, rank = instances(*hosts)
    parent, relayed = relay_tree(offsets, rank, ranks, ranks)
    direct = np.bincount([h[0] for h in hosts for _ in h[1:]], minlength=ranks)
    assert sends(parent, offsets, ranks).sum() == direct.sum()
    if relayed:
        assert direct.max() - sends(parent, offsets, ranks).max() >= 2
    for e, host in enumerate(hosts):
        came_from = dict(zip(host, parent[offsets[e] : offsets[e + 1]].tolist(), strict=True))
        for r in host[1:]:
            hop = came_from[r]
            assert hop == host[0] or came_from[hop] == host[0]
