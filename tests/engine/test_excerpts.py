from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.excerpts import one_layer, one_replica
from ultraep_sim.engine.job import Episode

from .jobs import jobs


@settings(max_examples=40, deadline=None)
@given(job=jobs(), data=st.data())
def test_a_replica_alone_runs_as_it_does_among_others(job, data) -> None:  # type: ignore[no-untyped-def]
    gpus = job.replicas * job.stages * job.ranks
    struck = data.draw(st.lists(st.integers(0, gpus - 1), min_size=1, max_size=3, unique=True))
    job = replace(job, episodes=(Episode(np.array(struck), "compute", 2.0, 0.0, 1e9),))
    whole = run_event(job)
    for replica in range(job.replicas):
        alone = run_event(one_replica(job, replica))
        for name in ("forward_start", "forward_end", "backward_start", "backward_end", "busy_s"):
            np.testing.assert_array_equal(
                getattr(alone, name)[0], getattr(whole, name)[replica], err_msg=name
            )


@settings(max_examples=40, deadline=None)
@given(job=jobs(overlaps=("none", "shared_expert")), data=st.data())
def test_layers_one_by_one_make_the_units(job, data) -> None:  # type: ignore[no-untyped-def]
    """A forward is its extra work and its layers, each as it runs alone."""
    replica = data.draw(st.integers(0, job.replicas - 1))
    batch = data.draw(st.integers(0, job.micro_batches - 1))
    whole = run_event(job)
    for vs, (first, stop) in enumerate(job.layers):
        alone = [run_event(one_layer(job, replica, batch, one)) for one in range(first, stop)]
        want = sum(float(times.forward_end[0, 0, 0]) for times in alone)
        want += job.extra_forward[replica, vs].max()
        got = whole.forward_end[replica, vs, batch] - whole.forward_start[replica, vs, batch]
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
