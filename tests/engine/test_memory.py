from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ultraep_sim.engine.in_flight import in_flight
from ultraep_sim.engine.job import Overlap
from ultraep_sim.engine.layer import LayerOptions
from ultraep_sim.engine.memory import activation_peak, memory_use
from ultraep_sim.engine.stage_memory import StageLayers, divided, slot_bytes
from ultraep_sim.errors import InputError, ProfileError
from ultraep_sim.model import AttentionShape, ModelShape, get_model, get_rack
from ultraep_sim.planning import EPLayout

QWEN, PAPER = get_model("qwen3-235b"), get_rack("paper-rack64")
TRAIN = LayerOptions(8192, recompute="full")
LAYOUT = EPLayout(64, 128, 2)
EVEN = np.full((3, 64), 65_536)

TOY = ModelShape(
    "toy", layers=3, dense_layers=1, dense_ffn=7, hidden=10, expert_ffn=4, num_experts=6, top_k=2,
    shared_experts=1, attention=AttentionShape(heads=2, kv_heads=1, head_dim=5), vocabulary=11,
)  # fmt: skip
PAIR = 10 * 2 + 3 * 4 * 2  # the dispatched row; gate, up and product
BUFFER = 10 * 2 + 10 * 2  # dispatch and combine
TOKEN = 2 * (4 * 10 + (2 + 1) * 10 + 3 * 4) + 4 * 6


def test_one_slot_of_qwen3_is_36_and_72_mib() -> None:
    weights, gradients = slot_bytes(QWEN, 1, TRAIN)
    assert (weights, gradients) == (36 * 2**20, 72 * 2**20)
    apart = sum(slot_bytes(QWEN, 1, TRAIN, QWEN.moe_layers))
    assert apart / 2**30 == pytest.approx(9.9, rel=0.01)  # without shared buffers
    assert slot_bytes(QWEN, 1, replace(TRAIN, phase="prefill"))[1] == 0


@pytest.mark.parametrize(
    ("transport", "layers"),
    [("none", 0), ("free", 94), ("stream", 1), ("broadcast", 1), ("migrate", 94)],
)
def test_slots_are_shared_across_layers_where_weights_are_streamed(
    transport: str, layers: int
) -> None:
    parts = memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN, transport=transport).parts  # type: ignore[arg-type]
    assert parts["slot weights"] == 2 * layers * 36 * 2**20
    assert parts["slot gradients"] == 2 * layers * 72 * 2**20


def test_parts_by_hand() -> None:
    got = memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN, pipeline_stages=2, data_parallel=4).parts
    mains = 2 * 47
    assert got["expert weights"] == mains * 36 * 2**20
    assert got["expert gradients"] == 2 * got["expert weights"]
    other = QWEN.other_params / 2
    assert got["other weights"] == 2 * other
    assert got["other gradients"] == 4 * other
    state = 12 * (mains * QWEN.expert_params / 4 + other / 256)
    assert got["optimizer state"] == pytest.approx(state)


def test_prefill_keeps_no_gradients_and_leaves_room_for_the_cache() -> None:
    got = memory_use(QWEN, PAPER, LAYOUT, EVEN, replace(TRAIN, phase="prefill"))
    assert not {"expert gradients", "other gradients", "optimizer state"} & set(got.parts)
    assert got.free == got.capacity - sum(got.parts.values()) > 0


PAIRS = np.array([[100, 20], [40, 80], [60, 60], [10, 110]])
GROUPS = np.array([0, 0, 1, 1])


def test_prefill_peak_is_one_layer_of_the_hottest_record() -> None:
    options = LayerOptions(30, phase="prefill")
    assert activation_peak(TOY, options, PAIRS) == 30 * TOKEN + 110 * (PAIR + BUFFER)


def test_full_recompute_keeps_layer_inputs_and_one_layer() -> None:
    options = LayerOptions(30, recompute="full")
    want = 3 * 30 * 10 * 2 + 30 * TOKEN + 110 * (PAIR + BUFFER)
    assert activation_peak(TOY, options, PAIRS) == want


def test_without_recompute_a_rank_keeps_all_layers_of_its_micro_batch() -> None:
    options = LayerOptions(30)
    fixed = 3 * 30 * TOKEN + 30 * 3 * 7 * 2 + 110 * BUFFER
    # Rank sums of micro-batch 0 are 140 and 100, of micro-batch 1 70 and 170.
    assert activation_peak(TOY, options, PAIRS, GROUPS) == fixed + 170 * PAIR
    assert activation_peak(TOY, options, PAIRS) == fixed + 2 * 110 * PAIR


def test_recorded_layers_stand_for_all() -> None:
    one_of_two = activation_peak(TOY, LayerOptions(30), PAIRS[:1], GROUPS[:1])
    fixed = 3 * 30 * TOKEN + 30 * 3 * 7 * 2 + 100 * BUFFER
    assert one_of_two == fixed + 2 * 100 * PAIR


@given(
    pairs=arrays(np.int64, (4, 3), elements=st.integers(0, 10_000)),
    recompute=st.sampled_from(["none", "full"]),
    phase=st.sampled_from(["training", "prefill"]),
)
def test_balance_never_needs_more(pairs, recompute, phase) -> None:  # type: ignore[no-untyped-def]
    options = LayerOptions(64, phase=phase, recompute=recompute)
    layout = EPLayout(3, 6, 1)
    for groups in (None, GROUPS):
        got = memory_use(TOY, PAPER, layout, pairs, options, groups=groups)
        assert got.activation_peak_ratio >= 1 - 1e-12
        assert got.activation_peak == got.parts["activations and buffers"]


def test_even_records_have_a_ratio_of_one() -> None:
    assert memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN).activation_peak_ratio == 1


def test_dtypes_shrink_weights_and_buffers() -> None:
    small = replace(TRAIN, weight_dtype="fp8", dispatch_dtype="fp8")
    before, after = (memory_use(QWEN, PAPER, LAYOUT, EVEN, o).parts for o in (TRAIN, small))
    for name in ("expert weights", "slot weights", "activations and buffers"):
        assert after[name] < before[name]
    assert after["slot gradients"] == before["slot gradients"]


def test_what_does_not_fit_fails_by_name() -> None:
    """Qwen3 without recompute: all layers' activations, the reason its recipe recomputes."""
    got = memory_use(QWEN, PAPER, LAYOUT, EVEN, replace(TRAIN, recompute="none"))
    assert not got.fits
    with pytest.raises(ProfileError, match=r"^ultraep: needs .* GB .*activations and buffers .*;"):
        got.check("ultraep")
    fits = memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN)
    fits.check("ultraep")
    assert fits.to_dict()["fits"] is True
    assert fits.to_dict()["total"] == pytest.approx(sum(fits.parts.values()))


@pytest.mark.parametrize("pairs", [np.zeros((0, 4)), np.zeros(4)])
def test_no_records_is_an_error(pairs: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^pairs: not a \[records, ranks\] array"):
        activation_peak(TOY, LayerOptions(1), pairs)


def test_weights_sent_ahead_need_a_second_set_of_buffers() -> None:
    once = memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN).parts
    ahead = memory_use(QWEN, PAPER, LAYOUT, EVEN, TRAIN, prefetched=True).parts
    assert ahead["slot weights"] == 2 * once["slot weights"] > 0
    assert ahead["slot gradients"] == once["slot gradients"]


def test_a_stage_holds_whole_layers() -> None:
    """94 layers on four stages: the fullest holds 24, where no logits make it the last."""
    shape = replace(QWEN, vocabulary=0)
    for transport, sets in (("stream", 1), ("migrate", 24)):
        parts = memory_use(
            shape, PAPER, LAYOUT, EVEN, TRAIN, transport=transport, pipeline_stages=4
        ).parts  # type: ignore[arg-type]
        assert parts["expert weights"] == 2 * 24 * 36 * 2**20
        assert parts["slot weights"] == 2 * sets * 36 * 2**20


@pytest.mark.parametrize("name", ["qwen3-235b", "deepseek-v3-671b", "glm-4.7-358b", "kimi-k2"])
@pytest.mark.parametrize("stages", [1, 3, 8])
def test_stages_hold_the_whole_model(name: str, stages: int) -> None:
    shape = get_model(name)
    held = divided(shape, stages)
    assert sum(stage.moe for stage in held) == shape.moe_layers
    assert sum(stage.dense for stage in held) == shape.dense_layers
    assert sum(stage.other_params(shape) for stage in held) == shape.other_params
    assert [s.first for s in held].count(True) == [s.last for s in held].count(True) == 1


def test_the_fullest_stage_counts_with_its_own_table() -> None:
    """TOY evenly: a dense and a MoE layer on the first stage, a MoE layer on the second."""
    attention = TOY.attention.projection_params(10) + 20
    gate_and_shared = 10 * 6 + 3 * 10 * 4
    layout = EPLayout(1, 6, 0)
    even = memory_use(TOY, PAPER, layout, np.array([[60]]), LayerOptions(30), pipeline_stages=2)
    assert even.parts["expert weights"] == 2 * 6 * 120  # each stage has one MoE layer
    assert even.parts["other weights"] == 2 * (2 * attention + gate_and_shared + 210 + 110)
    given = (StageLayers(0, 1, first=True, last=False), StageLayers(2, 0, first=False, last=True))
    uneven = memory_use(TOY, PAPER, layout, np.array([[60]]), LayerOptions(30), stage_layers=given)
    assert uneven.parts["expert weights"] == 2 * 2 * 6 * 120
    assert uneven.parts["other weights"] == 2 * (2 * (attention + gate_and_shared) + 110)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_logits_of_one_stage_are_a_part_of_their_own(recompute: str) -> None:
    """fp32 logits of 8,192 tokens and their gradient, whether or not a schedule is given."""
    options = replace(TRAIN, recompute=recompute)
    got = memory_use(QWEN, PAPER, LAYOUT, EVEN, options)
    assert got.parts["logits"] == 2 * 8192 * QWEN.vocabulary * 4
    assert got.activation_peak == activation_peak(QWEN, options, EVEN)
    given = in_flight("1f1b", "none", 1, 1, 4)
    assert memory_use(QWEN, PAPER, LAYOUT, EVEN, options, in_flight=given) == got
    prefill = memory_use(QWEN, PAPER, LAYOUT, EVEN, LayerOptions(8192, phase="prefill"))
    assert "logits" not in prefill.parts


def test_two_batch_holds_twice_as_much_as_1f1b() -> None:
    """One rank's activations of two chains, with the buffers of both."""
    options = LayerOptions(30)
    pairs = np.full((4, 1), 60)
    shape = replace(TOY, layers=9, vocabulary=0)

    def peak(overlap: Overlap) -> float:
        given = in_flight("1f1b", overlap, 4, 1, 16)
        layout = EPLayout(1, 6, 0)
        return memory_use(
            shape, PAPER, layout, pairs, options, pipeline_stages=4, in_flight=given
        ).activation_peak

    assert peak("two_batch") == 2 * peak("none")


def test_fewer_micro_batches_than_stages_hold_less() -> None:
    shape = replace(TOY, layers=9, vocabulary=0)
    found = [
        memory_use(
            shape, PAPER, EPLayout(1, 6, 0), np.full((4, 1), 60), LayerOptions(30),
            pipeline_stages=4, in_flight=in_flight("1f1b", "none", 4, 1, micro_batches),
        ).activation_peak
        for micro_batches in (1, 2, 3, 4, 8)
    ]  # fmt: skip
    assert found == sorted(found)
    assert found[0] < found[1] < found[2] < found[3] == found[4]


def test_a_schedule_of_other_stages_is_refused() -> None:
    with pytest.raises(InputError, match=r"^in_flight: not the schedule of these stages"):
        memory_use(
            QWEN, PAPER, LAYOUT, EVEN, TRAIN,
            pipeline_stages=2, in_flight=in_flight("1f1b", "none", 4, 1, 8),
        )  # fmt: skip
