"""The tile list holds every byte once, in an order nobody can deadlock on."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ultraep_sim as us
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.bulk import bulk_plan
from ultraep_sim.fabric.gradient_tiles import ReductionModel, reduce_tiles
from ultraep_sim.fabric.relay_choice import candidate_tree
from ultraep_sim.fabric.tiles import plan_tiles, tile_list
from ultraep_sim.model import get_rack
from ultraep_sim.planning import EPLayout, relay_tree

from .transfer_cases import plans, wide_plan

# Expert 0 lives on rank 0, with replicas on 1 and 2; expert 1 on rank 1, alone.
OFFSETS = np.array([0, 3, 4])
RANK = np.array([0, 1, 2, 1], np.int32)
SLOT = np.array([-1, 0, 0, -1], np.int32)


def test_direct_by_hand():
    tiles = tile_list(OFFSETS, RANK, SLOT, 3, 2500, tile_bytes=1000, chunk_tiles=2)
    assert tiles.task_source.tolist() == [0]
    assert tiles.copy_rank.tolist() == [1, 2]
    assert tiles.copy_instance.tolist() == [1, 2]
    assert tiles.entry_tile.tolist() == [0, 1, 2]
    assert tiles.tile_sizes.tolist() == [1000, 1000, 500]
    assert tiles.pair_bytes.tolist() == [[0, 2500, 2500], [0, 0, 0], [0, 0, 0]]
    assert not tiles.relayed


def test_relay_by_hand():
    """Rank 1 forwards to rank 2: the home's tiles first, then the relay's, chunk by chunk."""
    parent = np.array([0, 0, 1, 1], np.int32)
    tiles = tile_list(OFFSETS, RANK, SLOT, 3, 2500, parent=parent, tile_bytes=1000, chunk_tiles=2)
    assert tiles.task_source.tolist() == [0, 1]
    assert tiles.task_slot.tolist() == [-1, 0]
    assert tiles.task_wait.tolist() == [-1, 0]
    assert tiles.copy_rank[tiles.task_wait[1]] == 1
    assert tiles.entry_task.tolist() == [0, 0, 0, 1, 1, 1]
    assert tiles.sender_offsets.tolist() == [0, 3, 6, 6]
    assert tiles.chunks_per_copy == 2
    assert tiles.pair_bytes.tolist() == [[0, 2500, 0], [0, 0, 2500], [0, 0, 0]]
    assert "two stages" in str(tiles)


@given(
    plan=plans(), relay=st.booleans(), size=st.integers(1, 5000), tile=st.integers(1, 700),
    chunk=st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_every_byte_is_listed_once_and_waits_only_backwards(plan, relay, size, tile, chunk):
    ranks = plan.layout.num_ranks
    parent = candidate_tree(plan.offsets, plan.rank, ranks)[0] if relay else None
    tiles = tile_list(
        plan.offsets, plan.rank, plan.slot, ranks, size,
        parent=parent, tile_bytes=tile, chunk_tiles=chunk,
    )  # fmt: skip
    assert sorted(tiles.copy_instance.tolist()) == np.flatnonzero(plan.is_replica).tolist()
    assert int(tiles.tile_sizes.sum()) == size
    # The tree says who sends how many copies; the list says bytes.
    source = plan.rank[plan.offsets[plan.expert]] if parent is None else parent
    expected = np.zeros((ranks, ranks), np.int64)
    replica = plan.is_replica
    np.add.at(expected, (source[replica], plan.rank[replica]), size)
    assert tiles.pair_bytes.tolist() == expected.tolist()
    # Each task lists each tile once, in order; what it waits for stands earlier.
    place = {}
    for at, key in enumerate(
        zip(tiles.entry_task.tolist(), tiles.entry_tile.tolist(), strict=True)
    ):
        assert key not in place
        place[key] = at
    owner = np.repeat(np.arange(len(tiles.task_source)), np.diff(tiles.copy_offsets))
    for (task, number), at in place.items():
        assert number == 0 or place[task, number - 1] < at
        if tiles.task_wait[task] >= 0:
            feeder = owner[tiles.task_wait[task]]
            last = min((number // chunk + 1) * chunk, tiles.tiles_per_copy) - 1
            assert place[feeder, last] < at
            assert tiles.copy_rank[tiles.task_wait[task]] == tiles.task_source[task]
    pulled = np.concatenate([tiles.sender_entries[a:b] for a, b in zip(*_ends(tiles), strict=True)])
    assert sorted(pulled.tolist()) == list(range(len(tiles.entry_task)))


def _ends(tiles):
    return tiles.sender_offsets[:-1].tolist(), tiles.sender_offsets[1:].tolist()


def test_relay_rule_is_followed():
    plan = wide_plan()
    parent, relayed = relay_tree(plan.offsets, plan.rank, 16, 16)
    assert relayed
    tiles = plan_tiles(plan, 1000, relay=True)
    sent = np.bincount(parent[plan.is_replica], minlength=16) * 1000
    assert tiles.pair_bytes.sum(axis=1).tolist() == sent.tolist()
    assert plan_tiles(plan, 1000).pair_bytes.sum() == tiles.pair_bytes.sum()


@pytest.mark.parametrize(
    "run",
    [
        lambda plan: plan_tiles(plan, 1000),
        lambda plan: bulk_plan(plan, 1000),
        lambda plan: reduce_tiles(plan, 1000, ReductionModel.of(get_rack("paper-rack64"))),
    ],
)
def test_a_replica_in_another_domain_is_refused(run):
    layout = EPLayout(4, 4, 1, domain_size=2)
    loads = np.array([[90, 1, 1, 1]] * 4)
    plan = us.plan(loads, layout)
    run(plan)  # inside the domain
    far = replace(plan, rank=np.where(plan.is_replica, 3 - plan.rank, plan.rank).astype(np.int32))
    with pytest.raises(InputError, match="domain"):
        run(far)


@pytest.mark.parametrize("field", ["copy_bytes", "tile_bytes", "chunk_tiles"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_are_positive_integers(field, value):
    sizes = {"copy_bytes": 10, field: value}
    copy = sizes.pop("copy_bytes")
    with pytest.raises(InputError, match=field):
        tile_list(OFFSETS, RANK, SLOT, 3, copy, **sizes)


def test_imports_no_more_than_numpy_and_numba_do():
    """Kernels on locked-down machines execute the same list."""
    code = (
        "import sys; import ultraep_sim.fabric.tiles; "
        "bad = {'simpy', 'networkx', 'pydantic', 'pyarrow', 'rich', 'typer'}; "
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
