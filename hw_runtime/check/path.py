"""The device path gives the tokens and replicas of the CPU, from call to call and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultraep_sim.planning import EPLayout

from ..fabrics import Geometry
from ..reroute import choose_topk, instances
from . import cases
from .suite import Context, require_equal

TURNS = 4
TOKENS, TOP_K = 40, 3


def ids_to_weights(context: Context, options: cases.Options) -> tuple[int, str]:
    """Count, plan, stream and reroute on a device; its second to last turns replay a CUDA graph."""
    import torch

    from ..path import DevicePath

    ranks = context.ranks(12)
    geometry = Geometry(EPLayout(ranks, 2 * ranks, 2), 5 * 48 + 7, tile_bytes=48, chunk_tiles=2)
    rng = cases.stream(context.seed, 11)
    weights = cases.random_weights(rng, geometry.layout, geometry.copy_bytes)
    mains = [context.put(rows) for rows in weights]
    turns = [_draw_ids(rng, geometry.layout) for _ in range(TURNS)]
    with context.open(geometry, 1) as fabric:
        path = DevicePath(fabric, options)  # type: ignore[arg-type]  # not the host's
        held = [context.put(turns[0][r].copy()) for r in fabric.local_ranks]
        run: Callable[[], Any] = lambda: path(held, mains)  # noqa: E731  # what a turn runs
        for turn, ids in enumerate(turns):
            for tensor, r in zip(held, fabric.local_ranks, strict=True):
                tensor.copy_(torch.from_numpy(ids[r]))
            if turn == 1 and context.device != "cpu":
                run = _capture(run)
            routed = run()
            fabric.synchronize()
            routed.check()
            _compare(context, fabric, routed, ids, weights, options, f"turn {turn}")
    return TURNS * ranks, "ranks' tokens and replicas are those of the CPU"


def _capture(work: Callable[[], Any]) -> Callable[[], Any]:
    """Capture a call in a CUDA graph; return what replays it."""
    import torch

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        left = work()

    def replay() -> Any:
        graph.replay()
        return left

    return replay


def _compare(
    context: Context,
    fabric: Any,
    routed: Any,
    ids: list[NDArray[np.int32]],
    weights: list[NDArray[np.uint8]],
    options: cases.Options,
    turn: str,
) -> None:
    """Hold local ranks' tokens and replicas against the CPU planner and split."""
    layout, main_row = fabric.geometry.layout, fabric.geometry.main_row
    loads = [np.bincount(one.ravel(), minlength=layout.num_experts) for one in ids]
    plan = cases.solved_plan(layout, np.stack(loads).astype(np.int64), options)
    table = instances(plan, main_row)
    for at, r in enumerate(fabric.local_ranks):
        want = table.physical[choose_topk(ids[r], plan.offsets, plan.split[r])]
        place = f"{turn}, rank {r}, physical experts"
        require_equal(context.get(routed.physical[at]), want, place)
    for (r, slot), replica in cases.expected_slots(plan, weights, main_row).items():
        if r in fabric.local_ranks:
            place = f"{turn}, rank {r}, slot {slot}"
            require_equal(context.get(fabric.slots(r)[slot]), replica, place)


def _draw_ids(rng: np.random.Generator, layout: EPLayout) -> list[NDArray[np.int32]]:
    """Draw every rank's distinct top-k experts, int32 [tokens, k], some experts much liked."""
    share = rng.dirichlet(np.full(layout.num_experts, 0.3)) + 1e-9
    score = np.log(share) + rng.gumbel(size=(layout.num_ranks, TOKENS, layout.num_experts))
    return list(np.argsort(score, axis=2)[:, :, -TOP_K:].astype(np.int32))
