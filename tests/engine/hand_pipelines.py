"""By hand: pipelines, joint units, gradient sync and episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.engine.hand_case import HandCase, one, pipe
from tests.engine.jobs import make_job
from ultraep_sim.engine.job import Episode, Job


def pipeline_cases() -> list[HandCase]:
    uneven = [[2, 2], [2, 6], [2, 2]]  # [M, L]
    return [
        # Stage 0: F0 0-2, F1 2-4; stage 1: F0 3-5, B0 5-9, F1 9-11, B1 11-15;
        # stage 0: B0 10-14, B1 16-20.
        HandCase("1f1b, 2 stages, 2 micro-batches", pipe(2, 4, stages=2, micro_batches=2), 20),
        # As above, but stage 0 runs F2 14-16 before B1 16-20; stage 1: F2 17-19, B2 19-23;
        # stage 0: B2 24-28.
        HandCase(
            "1f1b, 2 stages, 3 micro-batches",
            pipe(2, 4, stages=2, micro_batches=3),
            28,
            {
                "forward_start": [[[0, 2, 14], [3, 9, 17]]],
                "backward_start": [[[10, 16, 24], [5, 11, 19]]],
                "backward_end": [[[14, 20, 28], [9, 15, 23]]],
                "busy_s": [[18, 18]],
                "sync_end": [28, 23],
            },
        ),
        # Stage 1 needs 6 for F1: F1 9-15, B1 15-19. Stage 0: B0 10-14, F2 14-16, B1 20-24.
        # Stage 1: F2 (there at 17) 19-21, B2 21-25. Stage 0: B2 26-30.
        HandCase(
            "1f1b, an imbalanced micro-batch",
            pipe(np.array(uneven)[..., None], 4, stages=2, micro_batches=3),
            30,
        ),
        # Optimizers: stage 0 ends at 28 + 1, stage 1 at 23 + 7.
        HandCase(
            "1f1b, the later optimizer",
            pipe(2, 4, stages=2, micro_batches=3, finish_s=[1, 7]),
            30,
        ),
        # Fewer micro-batches than warm-ups. F 0-1, 2-3, 4-5; B 5-7, 8-10, 11-13.
        HandCase("1f1b, 3 stages, 1 micro-batch", pipe(1, 2, stages=3), 13),
        # Stage 1 has no MoE layer, only a head of 3 and 5. Stage 0: F 0-2; stage 1: F 3-6, B 6-11;
        # stage 0: B 12-16.
        HandCase(
            "1f1b, a stage without MoE layers",
            pipe(
                2,
                4,
                stages=2,
                layers=((0, 1), (1, 1)),
                extra_forward=[[[0], [3]]],
                extra_backward=[[[0], [5]]],
            ),
            16,
        ),
        *_interleaved_cases(),
    ]


def _interleaved_cases() -> list[HandCase]:
    two_by_two = {"stages": 2, "chunks": 2, "micro_batches": 2}
    return [
        # Stage 0: F00 0-1, F01 1-2, F20 2-3, F21 3-4 (F, virtual stage, micro-batch).
        # Stage 1: F10 1-2, F11 2-3, F30 3-4, B30 4-6, F31 6-7, B31 7-9.
        # Stage 0: B20 6-8, B21 9-11. Stage 1: B10 (there at 8) 9-11, B11 11-13.
        # Stage 0: B00 11-13, B01 13-15.
        HandCase(
            "interleaved, no hops",
            pipe(1, 2, hop_s=0, **two_by_two),
            15,
            {
                "forward_start": [[[0, 1], [1, 2], [2, 3], [3, 6]]],
                "backward_start": [[[11, 13], [9, 11], [6, 9], [4, 7]]],
            },
        ),
        # Hops of 1/2. Stage 0: F00 0-1, F01 1-2; stage 1: F10 1.5-2.5, F11 2.5-3.5;
        # stage 0: F20 3-4, F21 4-5; stage 1: F30 4.5-5.5, B30 5.5-7.5, F31 7.5-8.5, B31 8.5-10.5;
        # stage 0: B20 8-10, B21 11-13; stage 1: B10 10.5-12.5, B11 13.5-15.5;
        # stage 0: B00 13-15, B01 16-18.
        HandCase("interleaved", pipe(1, 2, hop_s=0.5, **two_by_two), 18),
        # One stage, two chunks, two micro-batches: nothing ever waits, 4 x (1 + 2). Warm-up of 1,
        # then forward k + 1 and backward k in turn: F00 0-1, F10 1-2, B10 2-4, F01 4-5, B00 5-7,
        # F11 7-8, B11 8-10, B01 10-12.
        HandCase(
            "interleaved on one stage",
            pipe(1, 2, hop_s=0, chunks=2, micro_batches=2),
            12,
            {"forward_start": [[[0, 4], [1, 7]]], "backward_start": [[[5, 10], [2, 8]]]},
        ),
    ]


def joint_cases() -> list[HandCase]:
    return [
        # Chain: attention 10, send 1 + 4 + 5, compute 20, combine 6. A and B in turn.
        # Compute: A attention 0-10, B 10-20, A compute 20-40, B 40-60.
        # Communication: A send 10-20, B 20-30, A combine 40-46, B 60-66.
        # Backward from 66: return 7 + 2, compute 30, dispatch 8, max(12, 9). A return 66-75,
        # B 75-84; A compute 75-105, B 105-135; A dispatch 105-113, B 135-143;
        # A attention 135-147, B 147-159.
        HandCase(
            "two_batch",
            one(overlap="two_batch", micro_batches=2),
            159,
            {
                "forward_start": [[[0, 0]]],
                "forward_end": [[[66, 66]]],
                "backward_start": [[[66, 66]]],
                "backward_end": [[[159, 159]]],
                "busy_s": [[159]],
                "compute_s": [[2 * (10 + 20 + 30 + 12)]],
            },
        ),
        # The restore is on the communication stream, whatever is said of it.
        HandCase(
            "two_batch, restore overlapped",
            one(overlap="two_batch", micro_batches=2, restore="overlapped"),
            159,
        ),
        # So are weights sent ahead, whole. A attention 0-10, B 10-20; A send (1 + 50 + 5) 10-66,
        # B 66-122; A compute 66-86, B 122-142; A combine 122-128, B 142-148. From 148: A return
        # (7 + 60) 0-67, B 67-134; A compute 67-97, B 134-164; A dispatch 134-142, B 164-172;
        # A attention 164-176, B 176-188.
        HandCase(
            "two_batch, weights sent ahead",
            one(
                {"fwd_distribute": 50, "bwd_distribute": 60},
                overlap="two_batch",
                micro_batches=2,
                prefetched=True,
            ),
            148 + 188,
        ),
        # From 66: A attention 0-10, B 10-20; A dispatch 10-15, B 20-25; A compute 20-40, B 40-60;
        # A combine 40-46, B 60-66; A return 66-75 (after B's combine), B 75-84; A compute 75-105,
        # B 105-135; A dispatch 105-113, B 135-143; A attention 135-147, B 147-159.
        HandCase(
            "two_batch, recompute",
            one(overlap="two_batch", micro_batches=2, recompute="full"),
            66 + 159,
        ),
        # Two pairs on two stages; a pair computes 2 x 2 and 2 x 4: as 1f1b with F 4, B 8, hop 1.
        # Stage 0: F 0-4, F 4-8; stage 1: F 5-9, B 9-17, F 17-21, B 21-29;
        # stage 0: B 18-26, B 30-38.
        HandCase(
            "two_batch, 2 stages",
            pipe(2, 4, stages=2, micro_batches=4, overlap="two_batch"),
            38,
            {"forward_start": [[[0, 0, 4, 4], [5, 5, 17, 17]]]},
        ),
        # F0 alone 0-46. F1 beside B0 from 46: attention 0-10 beside return 0-9; backward compute
        # 10-40 beside send 10-20; forward compute 40-60 beside backward dispatch 40-48; backward
        # attention 60-72 beside combine 60-66: 72. B1 alone 118-177.
        HandCase(
            "dualpipe",
            one(overlap="dualpipe", micro_batches=2),
            177,
            {
                "forward_start": [[[0, 46]]],
                "forward_end": [[[46, 118]]],
                "backward_start": [[[46, 118]]],
                "backward_end": [[[118, 177]]],
                "busy_s": [[177]],
            },
        ),
        # Stage 0 runs 3 ahead: F0 0-2, F1 2-4, F2 4-6; stage 1: F0 3-5, F1 and B0 5-11, F2 and B1
        # 11-17, B2 17-21; stage 0: B0 12-16, B1 18-22, B2 22-26.
        HandCase(
            "dualpipe, 2 stages",
            pipe(2, 4, stages=2, micro_batches=3, overlap="dualpipe"),
            26,
            {
                "forward_start": [[[0, 2, 4], [3, 5, 11]]],
                "backward_end": [[[16, 22, 26], [11, 17, 21]]],
            },
        ),
        # Chains of unlike length: forward of one layer n = 5 (keys .1 .3 .5 .7 .9), backward with
        # recompute n = 9 (keys 1/18, 3/18, ...). F0 alone 0-46, then F1 beside B0, from 46.
        # Compute, by key: B attention .06, A outside .1 (0 s), B compute .28, A attention .3,
        # B backward compute .61, A compute .7, B backward attention .83, B outside .94.
        # Communication: B dispatch .17, B combine .39, A send .5 and B return .5 (A first),
        # B backward dispatch .72, A combine .9.
        # B attention 0-10; B dispatch 10-15; B compute 15-35; A attention 35-45;
        # B combine 35-41; A send 45-55; B return 55-64; B backward compute 64-94;
        # A compute 94-114; B backward dispatch 94-102; B backward attention 114-126;
        # A combine 114-120. Ends at 126. B1 alone: 41 + 59.
        HandCase(
            "dualpipe, recompute",
            one(overlap="dualpipe", micro_batches=2, recompute="full"),
            46 + 126 + 100,
        ),
    ]


def sync_cases() -> list[HandCase]:
    # Forward 0-2 (two layers of 1). Replica 0: layer 1 backward 2-5, layer 0 5-8, outside 8-9.
    # Replica 1: layer 1 2-7, layer 0 7-10, outside 10-11.
    two = {
        "busy": {
            "fwd_compute": 1,
            "bwd_compute": np.array([[3, 3], [3, 5]])[:, None, :, None],
        },
        "layers": 2,
        "replicas": 2,
        "extra_backward": 1,
        "extra_bucket_s": 2,
        "finish_s": 10,
    }
    chunks = {"busy": {"fwd_compute": 1, "bwd_compute": 2}, "chunks": 2, "replicas": 2}
    joint = {"busy": {"bwd_compute": 3}, "layers": 2, "replicas": 2, "bucket_s": [1, 4]}
    return [
        # Layer 1 ready at 7: 7-11; layer 0 ready at 10: 11-15; outside ready at 11: 15-17; + 10.
        HandCase(
            "sync behind the backward",
            make_job(bucket_s=[4, 4], **two),
            27,
            {"sync_end": [17], "backward_end": [[[9]], [[11]]]},
        ),
        # Layer 1 7-8, the network idles, layer 0 10-14, outside 14-16.
        HandCase("sync that idles", make_job(bucket_s=[4, 1], **two), 26, {"sync_end": [16]}),
        # All from 11 on: 4 + 4 + 2.
        HandCase(
            "sync exposed",
            make_job(bucket_s=[4, 4], grad_sync="exposed", **two),
            31,
            {"sync_end": [21]},
        ),
        # F0 0-1, F1 1-2, B1 2-4, B0 4-6. Layer 1 ready at 4: 4-5, outside of chunk 1 5-8,
        # layer 0 ready at 6: 8-9, outside of chunk 0 takes nothing.
        HandCase(
            "sync of two chunks",
            make_job(bucket_s=[1, 1], extra_bucket_s=[0, 3], **chunks),
            9,
        ),
        # Forwards take nothing. Layer 1: A 0-3, B 3-6; layer 0: A 6-9, B 9-12. Both micro-batches
        # have ended layer 1 at 6: 6-10; layer 0 at 12: 12-13.
        HandCase(
            "sync of a joint unit", make_job(overlap="two_batch", micro_batches=2, **joint), 13
        ),
        # F0, F1 take nothing; B0 (with F1) 0-6, B1 alone: layer 1 6-9, layer 0 9-12.
        # 9-13, 13-14.
        HandCase("sync, dualpipe", make_job(overlap="dualpipe", micro_batches=2, **joint), 14),
        # No hops: F 0-1, 1-2; B on stage 1 2-4, on stage 0 4-6. The network of a stage is its own:
        # stage 1 4-9, stage 0 6-7.
        HandCase(
            "sync of two stages",
            make_job(
                busy={"fwd_compute": 1, "bwd_compute": 2},
                stages=2,
                replicas=2,
                bucket_s=[1, 5],
                grad_sync="exposed",
            ),
            9,
            {"sync_end": [7, 9]},
        ),
    ]


def episode_cases() -> list[HandCase]:
    def spell(part: str, start: float, end: float, factor: float = 2, gpu: int = 1) -> Episode:
        return Episode(np.array([gpu]), part, factor, start, end)

    def run(*episodes: Episode, **changes: Any) -> Job:
        return make_job(
            **{
                "busy": {"fwd_compute": 10, "bwd_compute": 20},
                "ranks": 2,
                "micro_batches": 2,
                "episodes": episodes,
                **changes,
            }
        )

    return [
        # F0 0-10 started before the spell; B0 at 10 takes 40 on rank 1: 10-50; F1 50-60, B1 60-80.
        HandCase("episode", run(spell("compute", 5, 25)), 80),
        # In at its start, out at its end: B0 10-50, F1 at 50 is as usual.
        HandCase("episode, half open", run(spell("compute", 10, 50)), 80),
        # Slow links slow no kernel that computes.
        HandCase("episode of the links", run(spell("link", 0, 99)), 60),
        # Two spells of the same GPU multiply: B0 takes 20 x 2 x 3: 10-130, then 30.
        HandCase("two episodes", run(spell("compute", 5, 25), spell("compute", 9, 11, 3)), 160),
        # A GPU of the other stage: F 0-10, 10-20; B on stage 1 (GPU 3, from 20) 40: 20-60;
        # B on stage 0 60-80.
        HandCase(
            "episode on the other stage",
            run(spell("compute", 15, 30, gpu=3), stages=2, micro_batches=1),
            80,
        ),
        # Kernels outside the MoE layers are slow too: outside 0-8 (4 x 2), forward 8-18 (8 is
        # past the spell), backward 18-38.
        HandCase(
            "episode, outside the layers",
            run(spell("compute", 0, 5), micro_batches=1, extra_forward=4),
            38,
        ),
        # Dispatch 5 x 2 hides more of the shared experts: 10 + 6 hide all of 15. 10 (attention),
        # 1, 4, 10, 20, 6 = 51; then 59. (The spell ends before combine.)
        HandCase(
            "episode, shared experts",
            one(
                {"fwd_shared": 15},
                overlap="shared_expert",
                episodes=(spell("link", 15, 16, gpu=0),),
            ),
            110,
        ),
    ]
