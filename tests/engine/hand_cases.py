"""Iterations small enough for a pencil: what both engines must say, computed by hand.

The comments are the computation. ``a-b`` is from a to b; a sum in sequence names its steps in
order. `ONE` is one layer on one rank in whole seconds, and most cases change a thing or two of it.
"""

from tests.engine.hand_case import HandCase
from tests.engine.hand_layers import hiding_cases, layer_cases
from tests.engine.hand_pipelines import episode_cases, joint_cases, pipeline_cases, sync_cases

#: For both engines.
CASES: list[HandCase] = [
    *layer_cases(),
    *hiding_cases(),
    *pipeline_cases(),
    *joint_cases(),
    *sync_cases(),
]
#: For the event engine: the fast path knows no episodes.
EPISODE_CASES: list[HandCase] = episode_cases()
