"""The GPU fabrics: `virtual` run on the CPU with the kernels' sources, and what each needs."""

import ctypes

import numpy as np
import pytest
import torch
from grid_kernels import grid_kernels
from host_kernels import HostOrder, needs_compiler

from hw_runtime.__main__ import main
from hw_runtime.check import cases, gradients, weights
from hw_runtime.check.command import run_case
from hw_runtime.check.suite import Context
from hw_runtime.errors import FabricError, MissingHardwareError
from hw_runtime.fabrics import FABRICS, Geometry, open_fabric
from hw_runtime.fabrics.arena import CHANNELS, Arena
from hw_runtime.fabrics.device import DeviceFabric
from hw_runtime.fabrics.ipc import reach
from hw_runtime.fabrics.structs import BARRIERS, ERROR, STREAM, WHERE
from hw_runtime.manager import Balance, Manager
from hw_runtime.path import DevicePath
from hw_runtime.reduction import gradient_list
from ultraep_sim.errors import InputError
from ultraep_sim.fabric.tiles import plan_tiles
from ultraep_sim.planning import EPLayout, QuotaSolver

LAYOUT = EPLayout(12, 24, 2)


class HostKernels:
    """A family as a GPU fabric launches it, run by fibers; few blocks, since each is 32 of them."""

    def __init__(self, family: str) -> None:
        self.kernels, self.order = grid_kernels(family), 0

    def __new__(cls, family: str):
        """Blocks of these families do not wait for each other: the other shim runs them."""
        plain = family in ("histogram", "mosaic", "planner", "reroute")
        return HostOrder(family, 5) if plain else super().__new__(cls)

    def launch(self, name, blocks, threads, shared, *arguments):
        self.order += 1
        assert shared <= 64 << 10
        pointers = [tensor.data_ptr() for tensor in arguments]
        self.kernels.run(name, [pointers], blocks=min(blocks, 2), threads=threads, order=self.order)


def virtual(geometry: Geometry, **more):
    return open_fabric("virtual", geometry, load=HostKernels, **more)


@needs_compiler
@pytest.mark.parametrize("suite", [weights, gradients], ids=["weights", "gradients"])
def test_check_is_green_on_the_virtual_fabric(suite, monkeypatch):
    monkeypatch.setattr(cases, "SIZES", cases.SIZES[:-1])  # real tiles: too long for fibers
    context = Context("virtual", device="cpu", options={"load": HostKernels})
    rows = [run_case("s", c) for c in suite.suite(context) if "fan-out" not in c[0]]
    assert len(rows) >= 10
    assert [row for row in rows if row.status != "ok"] == []


@needs_compiler
@pytest.mark.parametrize("relay", [False, True])
def test_a_plan_on_the_device_needs_no_host(relay):
    geometry = Geometry(LAYOUT, 5 * 64 + 9, 40, sets=2, tile_bytes=64, chunk_tiles=2)
    rng = cases.stream(3)
    fabric = virtual(geometry)
    expert, rank = (torch.zeros(24, dtype=torch.int32) for _ in range(2))
    count = torch.zeros(1, dtype=torch.int64)
    for turn in range(4):
        loads = cases.random_loads(rng, LAYOUT, 2048)
        solution = QuotaSolver(LAYOUT).solve(loads.sum(axis=0))
        n = len(solution.expert)
        expert[:n], rank[:n] = torch.tensor(solution.expert), torch.tensor(solution.rank)
        count[0] = n
        plan = cases.solved_plan(LAYOUT, loads)
        mains = cases.random_weights(rng, LAYOUT, geometry.copy_bytes)
        given = [torch.from_numpy(m) for m in mains]
        which = turn % 2
        assert fabric.distribute_plan(expert, rank, count, given, which, relay=relay) == turn + 1
        for (r, slot), want in cases.expected_slots(plan, mains, geometry.main_row).items():
            np.testing.assert_array_equal(fabric.slots(r, which)[slot].numpy(), want)
        sums = [torch.ones(int(m), 40) for m in LAYOUT.mains_per_rank]
        for i in np.flatnonzero(plan.is_replica):
            fabric.gradients(plan.rank[i], which)[plan.slot[i]] = 2.0
        fabric.reduce_plan(sums, which, sms=2)
        for e, fanout in enumerate(plan.fanout):
            assert (sums[LAYOUT.home[e]][geometry.main_row[e]] == 1 + 2 * fanout).all()
    fabric.synchronize()
    with pytest.raises(FabricError, match="no plan was distributed"):
        virtual(geometry).reduce_plan(sums)


@needs_compiler
def test_the_hang_guard_speaks_and_reset_forgets():
    plan = cases.fanout_plan(LAYOUT, 9)
    geometry = Geometry(LAYOUT, 256, tile_bytes=64, chunk_tiles=2)
    fabric = virtual(geometry)
    tiles = plan_tiles(plan, 256, relay=True, tile_bytes=64, chunk_tiles=2)
    mains = [torch.from_numpy(m) for m in cases.random_weights(cases.stream(0), LAYOUT, 256)]
    fabric._states[0, ERROR] = 1
    with pytest.raises(FabricError, match="that nobody raised"):
        fabric.synchronize()
    fabric.reset()
    fabric.synchronize()
    assert fabric.distribute(tiles, mains) == 1
    fabric.close()


class OneOfMany(DeviceFabric):
    """Rank 1 of a group, its kernels noted and not run; the others' arenas are its own."""

    def __init__(self, geometry):
        self.launched = []
        super().__init__(geometry, device="cpu", rank=1, load=lambda family: self)

    def launch(self, name, blocks, threads, shared, *arguments):
        self.launched.append((name, arguments[-1]))

    def _map_arenas(self):
        self._mine = self._zeros(self._arena.total, torch.uint8)
        return [self._mine.data_ptr()] * self.geometry.layout.num_ranks

    def _local_arena(self, rank):
        return self._mine

    def _host_barrier(self):
        pass


def test_barriers_on_two_streams_do_not_meet():
    """A reduction beside the next layer's barrier: words and turns of their own."""
    fabric = OneOfMany(Geometry(LAYOUT, 256, 8, tile_bytes=64, chunk_tiles=2))
    work = gradient_list(cases.fanout_plan(LAYOUT, 3), fabric.geometry.main_row)
    fabric.reduce(work, [torch.zeros(2, 8) for _ in range(12)])
    fabric.barrier()
    names, structs = zip(*fabric.launched, strict=True)
    assert names == ("rank_barrier", "reduce_fp32_fp32", "rank_barrier", "rank_barrier")
    first, _, last, other = ({k: int(v) for k, v in zip(STREAM, s, strict=False)} for s in structs)
    assert first == last
    assert first["state"] != other["state"]
    assert first["list"] == other["list"] == 1
    words = [np.ctypeslib.as_array((ctypes.c_int64 * 12).from_address(one["arrived"]))
             for one in (first, other)]  # fmt: skip
    assert (np.abs(words[0] - words[1]) >= 8 * 12).all()
    fabric._states[1, BARRIERS], fabric._states[1, ERROR], fabric._states[1, WHERE] = 6, 1, 9
    with pytest.raises(FabricError, match="at barrier 6 of the reductions for rank 9"):
        fabric.synchronize()


def test_a_path_names_what_it_is_not_given():
    with pytest.raises(InputError, match="nowhere to put a replica"):
        DevicePath(virtual(Geometry(EPLayout(4, 8, 0), 64)))
    path = DevicePath(OneOfMany(Geometry(LAYOUT, 64)))
    with pytest.raises(InputError, match=r"topk_ids: no ids for every local rank \(got 2\)"):
        path([torch.zeros(1, 1), torch.zeros(1, 1)], [])


@needs_compiler
def test_a_path_takes_ranks_without_tokens_and_counts_wrong_ids(monkeypatch):
    monkeypatch.setattr("hw_runtime.counting.check_ids", lambda ids, *_: ids)
    monkeypatch.setattr("hw_runtime.rerouter.check_ids", lambda ids, *_: ids)
    geometry = Geometry(LAYOUT, 64, tile_bytes=64, chunk_tiles=2)
    path = DevicePath(virtual(geometry))
    mains = [torch.zeros(2, 64, dtype=torch.uint8) for _ in range(12)]
    ids = [torch.zeros(0, 2, dtype=torch.int32) for _ in range(12)]
    path(ids, mains).check()
    ids[3] = torch.tensor([[0, 24]], dtype=torch.int32)
    routed = path(ids, mains)
    assert routed.physical[3].tolist() == [[0, -1]]
    with pytest.raises(InputError, match="expert ids out of range"):
        routed.check()


def test_bad_input_is_named():
    geometry = Geometry(LAYOUT, 256, 8, tile_bytes=64, chunk_tiles=2)
    fabric = virtual(geometry)
    plan = cases.fanout_plan(LAYOUT, 3)
    tiles = plan_tiles(plan, 256, tile_bytes=64, chunk_tiles=2)
    good = [torch.zeros(2, 256, dtype=torch.uint8) for _ in range(12)]

    def bad(message, call):
        with pytest.raises(InputError, match=message):
            call()

    bad("weights are bytes", lambda: fabric.distribute(tiles, [m.float() for m in good]))
    bad("no entry for every rank", lambda: fabric.distribute(tiles, good[1:]))
    bad("do not fit", lambda: fabric.distribute(tiles, [m[:1] for m in good]))
    wide = [torch.zeros(256, 2, dtype=torch.uint8).T for _ in range(12)]
    bad("rows are not contiguous", lambda: fabric.distribute(tiles, wide))
    bad("another process's", lambda: fabric.slots(12))
    bad("no such set", lambda: fabric.slots(0, 1))
    work = gradient_list(plan, geometry.main_row)
    sums = [torch.zeros(2, 8, dtype=torch.float64) for _ in range(12)]
    bad("float32 or bfloat16", lambda: fabric.reduce(work, sums))
    wide_tiles = Geometry(LAYOUT, 2**20, tile_bytes=40960)
    bad(
        r"tile_bytes: tiles do not fit .*got 40960.* give 38656 at most",
        lambda: virtual(wide_tiles),
    )
    virtual(Geometry(EPLayout(2, 2, 1), 64, tile_bytes=38656))
    bad("no SM", lambda: fabric.reduce(work, [m.float() for m in sums], sms=0))


def test_parts_of_an_arena_do_not_overlap():
    geometry = Geometry(LAYOUT, 777, 33, "bf16", sets=3, tile_bytes=64)
    a = Arena.of(geometry)
    assert a.slots + 3 * a.slot_set <= a.gradients
    assert a.gradients + 3 * a.gradient_set <= a.ready
    assert a.ready + 3 * a.ready_set <= a.arrived
    assert a.arrived + CHANNELS * a.arrived_set <= a.loads
    assert a.loads + 12 * 24 * 4 <= a.total
    assert a.ready_set >= 2 * geometry.chunks_per_copy * 8
    assert all(x % 128 == 0 for x in (a.slot_set, a.gradient_set, a.ready, a.arrived, a.total))


@pytest.mark.parametrize("fabric", ["virtual", "ipc", "symm"])
def test_without_a_gpu_it_says_so_in_one_sentence(fabric, capsys):
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert main(["check", "--fabric", fabric]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: this machine has no CUDA device that torch can use\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fabric", ["virtual"])
def test_check_is_green_on_a_gpu(fabric, capsys):
    assert fabric in FABRICS
    assert main(["check", "--fabric", fabric, "--plans", "60", "--orders", "5"]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_check_is_green_with_eight_processes_on_one_gpu():
    import subprocess
    import sys

    words = "--nproc-per-node 8 -m hw_runtime check --fabric ipc --suite weights --suite gradients"
    command = [sys.executable, "-m", "torch.distributed.run", *words.split()]
    assert subprocess.run(command, check=False, timeout=600).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_graph_follows_the_plan_on_the_device():
    geometry = Geometry(LAYOUT, 5 * 32768 + 48)
    mains = cases.random_weights(cases.stream(1), LAYOUT, geometry.copy_bytes)
    given = [torch.from_numpy(m).cuda() for m in mains]
    expert, rank = (torch.zeros(24, dtype=torch.int32, device="cuda") for _ in range(2))
    count = torch.zeros(1, dtype=torch.int64, device="cuda")
    with open_fabric("virtual", geometry, jitter=3) as fabric:
        fabric.distribute_plan(expert, rank, count, given)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            fabric.distribute_plan(expert, rank, count, given)
        for fanout in (11, 3, 0, 9):
            plan = cases.fanout_plan(LAYOUT, fanout, expert=fanout)
            which = np.flatnonzero(plan.is_replica)
            expert[:fanout] = torch.from_numpy(plan.expert[which]).cuda()
            rank[:fanout] = torch.from_numpy(plan.rank[which]).cuda()
            count[0] = fanout
            graph.replay()
            fabric.synchronize()
            for (r, slot), want in cases.expected_slots(plan, mains, geometry.main_row).items():
                np.testing.assert_array_equal(fabric.slots(r)[slot].cpu().numpy(), want)


class FakeCuda:
    """What `reach` asks of torch."""

    def __init__(self, peers):
        self.cuda, self.peers, self.copied = self, peers, []

    def can_device_access_peer(self, device, other):
        return (device, other) in self.peers

    def zeros(self, count, device):
        self.source = device
        return self

    def to(self, other):
        self.copied.append((self.source, other))

    def synchronize(self, device):
        pass


def test_peers_are_opened_from_the_kernels_side():
    fake = FakeCuda([("cuda:0", "cuda:1")])
    reach(fake, "cuda:0", "cuda:0")
    assert fake.copied == []
    reach(fake, "cuda:0", "cuda:1")
    assert fake.copied == [("cuda:0", "cuda:1")]
    with pytest.raises(MissingHardwareError, match="cuda:0 cannot reach the memory of cuda:2"):
        reach(fake, "cuda:0", "cuda:2")


@needs_compiler
@pytest.mark.parametrize("policy", ["ultraep", "mosaic"])
def test_the_manager_plans_where_the_ids_are(policy, monkeypatch):
    """Placement, slots, tokens and sums are the host's, from two layers that share the slots."""

    def refuse(*_):
        raise AssertionError("ids went through the host")

    geometry = Geometry(LAYOUT, 160, 40, tile_bytes=64, chunk_tiles=2)
    rng = cases.stream(21)
    score = np.log(rng.dirichlet(np.full(24, 0.3)) + 1e-9) + rng.gumbel(size=(2, 12, 30, 24))
    layers = [
        [torch.from_numpy(one) for one in np.argsort(draw, axis=2)[:, :, -3:].astype(np.int32)]
        for draw in score
    ]
    weights = cases.random_weights(rng, LAYOUT, 160)
    mains = [torch.from_numpy(one) for one in weights]
    host = Manager(open_fabric("host", geometry), Balance(policy))
    wanted = []
    for ids in layers:
        placement = host.update_placement(ids)
        wanted.append((placement.plan, host.reroute(placement, ids)))
    counts = torch.from_numpy(host.exchange(layers[0]))
    manager = Manager(virtual(geometry), Balance(policy))
    monkeypatch.setattr("hw_runtime.manager.check_ids", refuse)
    monkeypatch.setattr(manager, "exchange", refuse)
    kept = [manager.update_placement(ids) for ids in layers]
    for placement, ids, (plan, physical) in zip(kept, layers, wanted, strict=True):
        manager.weight_sync(placement, mains)
        slots = manager.acquire(placement)
        assert "plan" not in vars(placement)  # nothing was copied to the host so far
        for got, want in zip(manager.reroute(placement, ids), physical, strict=True):
            assert torch.equal(got, want)
        for (r, slot), want in cases.expected_slots(plan, weights, geometry.main_row).items():
            np.testing.assert_array_equal(slots[r][slot].numpy(), want)
        gradients = manager.gradient_slots(placement)
        for i in np.flatnonzero(plan.is_replica):
            gradients[plan.rank[i]][plan.slot[i]] = 2.0
        sums = [torch.ones(int(m), 40) for m in LAYOUT.mains_per_rank]
        manager.release(placement)
        manager.grad_reduce(placement, sums)
        for e, fanout in enumerate(plan.fanout):
            assert (sums[LAYOUT.home[e]][geometry.main_row[e]] == 1 + 2 * fanout).all()
        for name in ("rank", "slot", "quota", "offsets", "split"):
            assert np.array_equal(getattr(placement.plan, name), getattr(plan, name)), name
        assert (placement.plan.tau, placement.plan.policy) == (plan.tau, policy)
    with pytest.raises(FabricError, match="holds other replicas"):
        manager.grad_reduce(kept[0], sums)
    assert manager.update_placement(counts=counts).made is None  # handed in: planned on the host


@needs_compiler
def test_a_placement_says_what_the_device_found_wrong():
    manager = Manager(virtual(Geometry(LAYOUT, 64, tile_bytes=64, chunk_tiles=2)))
    empty = manager.update_placement([torch.zeros(0, 2, dtype=torch.int32) for _ in range(12)])
    empty.check()
    with pytest.raises(InputError, match="no rank has a token"):
        _ = empty.plan


def test_a_group_too_large_for_a_kernel_is_planned_on_the_host():
    layout = EPLayout(257, 257, 1)
    fabric = virtual(Geometry(layout, 64, tile_bytes=64, chunk_tiles=2))
    counts = np.ones((257, 257), np.int64)
    counts[:, 3] = 40
    manager = Manager(fabric, Balance("mosaic"))
    assert manager.update_placement(counts=counts).plan.num_replicas > 0
    assert manager.update_placement([torch.zeros(1, 1, dtype=torch.int32)] * 257).made is None
