"""The order in which stages work, and what happens to an order that cannot be."""

import pytest

from tests.engine.jobs import make_job
from ultraep_sim.engine.event import run, run_event
from ultraep_sim.engine.event.schedule import Pass, last_backwards, stage_order
from ultraep_sim.errors import UltraEPSimError


def written(job, stage):
    """The order as text: F or B, virtual stage, micro-batch; + joins the passes of a unit."""
    return " ".join(
        "+".join(f"{way[0].upper()}{vs}{batch}" for way, vs, batch in unit)
        for unit in stage_order(job, stage)
    )


def test_1f1b():
    job = make_job(stages=3, micro_batches=4)
    assert written(job, 0) == "F00 F01 F02 B00 F03 B01 B02 B03"
    assert written(job, 1) == "F10 F11 B10 F12 B11 F13 B12 B13"
    assert written(job, 2) == "F20 B20 F21 B21 F22 B22 F23 B23"


def test_interleaved():
    """Megatron-LM's: two stages, two chunks, four micro-batches; warm-ups of 4 and 2."""
    job = make_job(stages=2, chunks=2, micro_batches=4)
    assert written(job, 0) == ("F00 F01 F20 F21 F02 B20 F03 B21 F22 B00 F23 B01 B22 B23 B02 B03")
    assert written(job, 1) == ("F10 F11 F30 B30 F31 B31 F12 B10 F13 B11 F32 B32 F33 B33 B12 B13")


def test_interleaved_warm_up_over_three_stages():
    """(3 - s - 1) x 2 + (2 - 1) x 3 = 7, 5, 3 forwards, and one, before the first backward."""
    job = make_job(stages=3, chunks=2, micro_batches=6)
    assert written(job, 0).startswith("F00 F01 F02 F30 F31 F32 F03 F04 B30 F05 B31")
    assert written(job, 1).startswith("F10 F11 F12 F40 F41 F42 B40 F13 B41")
    assert written(job, 2).startswith("F20 F21 F22 F50 B50 F51 B51")


def test_two_batch():
    job = make_job(stages=2, micro_batches=4, overlap="two_batch")
    assert written(job, 0) == "F00+F01 F02+F03 B00+B01 B02+B03"
    assert written(job, 1) == "F10+F11 B10+B11 F12+F13 B12+B13"


def test_dualpipe():
    job = make_job(stages=2, micro_batches=4, overlap="dualpipe")
    assert written(job, 0) == "F00 F01 F02 F03+B00 B01 B02 B03"
    assert written(job, 1) == "F10 F11+B10 F12+B11 F13+B12 B13"
    assert written(make_job(stages=3, overlap="dualpipe"), 0) == "F00 B00"


def test_last_backwards_come_in_the_order_of_the_last():
    def backward(vs, batch):
        return (Pass("backward", vs, batch),)

    order = [backward(1, 0), backward(0, 0), (Pass("forward", 0, 1),), backward(1, 1)]
    assert list(last_backwards(order).items()) == [(0, backward(0, 0)), (1, backward(1, 1))]


def test_a_backward_before_its_forward_is_a_defect(monkeypatch):
    monkeypatch.setattr(run, "stage_order", lambda job, stage: stage_order(job, stage)[::-1])
    with pytest.raises(UltraEPSimError, match="before its forward"):
        run_event(make_job())


def test_an_order_that_waits_for_itself_is_a_defect(monkeypatch):
    """Stage 0 wants a backward first that stage 1 can only give after stage 0's forward."""
    monkeypatch.setattr(
        run, "stage_order", lambda job, stage: stage_order(job, stage)[:: 1 if stage else -1]
    )
    with pytest.raises(UltraEPSimError, match=r"stages \[0, 1\] never end"):
        run_event(make_job(stages=2, busy={"fwd_compute": 1}))
