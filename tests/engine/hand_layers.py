"""By hand: one stage, one micro-batch; what a layer's steps add up to and what hides what."""

from __future__ import annotations

from tests.engine.hand_case import HandCase, one


def layer_cases() -> list[HandCase]:
    return [
        # 100 + 46, then 59 + 200, then the optimizer 1000. Computing: 100, 10, 20; 30, 12, 200.
        HandCase(
            "one layer, one rank, all phases",
            one(extra_forward=100, extra_backward=200, finish_s=1000),
            1405,
            {
                "forward_start": [[[0]]],
                "forward_end": [[[146]]],
                "backward_start": [[[146]]],
                "backward_end": [[[405]]],
                "busy_s": [[405]],
                "compute_s": [[372]],
                "sync_end": [405],
            },
        ),
        # 46 without the plan's 1, then 59.
        HandCase("hidden decision", one(hidden=True), 104),
        # reroute 11 sticks out beyond distribute 4: 53, then 59.
        HandCase("slow reroute", one({"fwd_reroute": 11}), 112),
        # 46, then again 10 + 5 + 20 + 6 = 41, then 59. Computing: 10, 20; 10, 20, 30, 12.
        HandCase("recompute", one(recompute="full"), 146, {"compute_s": [[102]]}),
        # Two layers: 2 x 46, then 2 x 59.
        HandCase("two layers", one(layers=2), 210),
        # Slowest rank of each step: attention 15, plan 1, max(4, 5), dispatch 9, compute 30,
        # combine 6: 66; combine 7, restore 2, compute 45, dispatch 12, max(18, 20): 86.
        HandCase(
            "three ranks, one slow",
            one(
                {
                    "fwd_attention": [10, 10, 15],
                    "fwd_distribute": [4, 2, 0],
                    "fwd_reroute": [3, 3, 5],
                    "fwd_dispatch": [5, 9, 5],
                    "fwd_compute": [20, 20, 30],
                    "bwd_distribute": [0, 2, 0],
                    "bwd_compute": [30, 30, 45],
                    "bwd_dispatch": [8, 8, 12],
                    "bwd_attention": [12, 12, 18],
                    "bwd_grad_reduce": [9, 20, 0],
                },
                ranks=3,
            ),
            152,
            {"forward_end": [[[66]]], "compute_s": [[15 + 30 + 45 + 18]]},
        ),
    ]


def hiding_cases() -> list[HandCase]:
    sent_ahead = {"fwd_distribute": 50, "bwd_distribute": 60}
    shared = {"fwd_shared": 15, "bwd_shared": 18}
    return [
        # Reduce 9, restore 2 behind attention 12: backward 7 + 30 + 8 + 12 = 57, after 46.
        HandCase("restore behind attention", one(restore="overlapped"), 103),
        # Reduce 9, restore 5 = 14 > 12: 7 + 30 + 8 + 14 = 59.
        HandCase(
            "restore longer than attention",
            one({"bwd_distribute": 5}, restore="overlapped"),
            105,
            {"compute_s": [[72]]},
        ),
        # Ranks wait between reduce (slowest 9) and restore (slowest 5), though no rank has both:
        # 14, not 9.
        HandCase(
            "reduce and restore on different ranks",
            one(
                {"bwd_distribute": [5, 0], "bwd_grad_reduce": [0, 9]}, restore="overlapped", ranks=2
            ),
            105,
        ),
        # Restore 13 starts with the recomputed attention 10 and leaves 3: 46, 41, 7+3+30+8+12.
        HandCase(
            "restore behind recompute",
            one({"bwd_distribute": 13}, restore="overlapped", recompute="full"),
            147,
        ),
        # Window 10 + 5 + 20 + 6 = 41 leaves 9 of 50: forward 10+1+9+5+20+6 = 51. Backward: window
        # 7+30+8+12, less the 9 of reduce = 48, leaves 12 of 60: 7+12+30+8+12 = 69.
        HandCase("weights sent ahead", one(sent_ahead, prefetched=True), 120),
        # The same, whatever `restore` says.
        HandCase(
            "weights sent ahead, restore overlapped",
            one(sent_ahead, prefetched=True, restore="overlapped"),
            120,
        ),
        # Backward window 41 + 48 = 89 leaves 11 of 100: 51, then 41 + 7+11+30+8+12 = 109.
        HandCase(
            "weights sent ahead, recompute",
            one({**sent_ahead, "bwd_distribute": 100}, prefetched=True, recompute="full"),
            160,
        ),
        # Dispatch 5 + combine 6 leave 4 of 15: 50. 7 + 8 leave 3 of 18: 62.
        # Computing: 10, 20, 4; 30, 12, 3.
        HandCase(
            "shared experts",
            one(shared, overlap="shared_expert"),
            112,
            {"forward_end": [[[50]]], "compute_s": [[79]]},
        ),
        # Short shared experts are hidden whole.
        HandCase(
            "short shared experts",
            one({"fwd_shared": 11, "bwd_shared": 14}, overlap="shared_expert"),
            105,
            {"compute_s": [[72]]},
        ),
        # 50, again 41 + 4, then 62.
        HandCase(
            "shared experts, recompute", one(shared, overlap="shared_expert", recompute="full"), 157
        ),
        # Windows 41 + 4 and 48 + 3 leave 5 of 50 and 9 of 60: 10+1+5+5+20+6+4 = 51,
        # 7+9+30+8+12+3 = 69.
        HandCase(
            "shared experts, weights sent ahead",
            one({**shared, **sent_ahead}, overlap="shared_expert", prefetched=True),
            120,
        ),
    ]
