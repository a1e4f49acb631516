"""Placements written for TensorRT-LLM and vLLM-Ascend, and read back."""

import json

import numpy as np
import pytest
import yaml

import ultraep_sim as us
from ultraep_sim.errors import InputError
from ultraep_sim.trace.formats import tensorrt_llm, vllm_ascend
from ultraep_sim.trace.formats.assignments import slot_experts


def plans(policy="ultraep", ranks=4, slots=1):
    rng = np.random.default_rng(4)
    layout = us.EPLayout(num_ranks=ranks, num_experts=8, slots_per_rank=slots)
    loads = rng.multinomial(4096, rng.dirichlet(np.full(8, 0.5)), size=(3, ranks))
    return {layer: us.plan(matrix, layout, policy=policy) for layer, matrix in enumerate(loads)}


@pytest.mark.parametrize("policy", ["none", "ultraep", "eplb"])
@pytest.mark.parametrize("module", [tensorrt_llm, vllm_ascend])
def test_what_is_written_reads_back(policy, module, tmp_path):
    made = plans(policy)
    tables = module.read_placement(module.write_placement(made, tmp_path / "out"))
    assert sorted(tables) == [0, 1, 2]
    for layer, plan in made.items():
        assert np.array_equal(tables[layer], slot_experts(plan).reshape(-1))


def test_slots_hold_mains_first_then_replicas():
    for plan in plans().values():
        table = slot_experts(plan)
        assert table.shape == (4, 3)
        for rank, row in enumerate(table):
            held = set(plan.expert[plan.rank == rank].tolist())
            assert set(row.tolist()) == held  # an empty slot repeats one of the rank's own
            assert set(row[:2].tolist()) == set(np.flatnonzero(plan.layout.home == rank).tolist())
        assert set(table.ravel().tolist()) == set(range(8))


def test_the_balancer_file_of_tensorrt_llm(tmp_path):
    out = tensorrt_llm.write_placement({3: plans()[0]}, tmp_path / "moe_load_balancer.yaml")
    document = yaml.safe_load(out.read_text())
    assert document["num_slots"] == 12
    assert document["layer_updates_per_iter"] == 0
    assert list(document["initial_global_assignments"]) == [3]
    assert len(document["initial_global_assignments"][3]) == 12


def test_the_expert_map_of_vllm_ascend(tmp_path):
    document = json.loads(vllm_ascend.write_placement(plans(), tmp_path / "map.json").read_text())
    assert document["moe_layer_count"] == len(document["layer_list"]) == 3
    layer = document["layer_list"][1]
    assert (layer["layer_id"], layer["device_count"]) == (1, 4)
    assert [device["device_id"] for device in layer["device_list"]] == [0, 1, 2, 3]
    assert all(len(device["device_expert"]) == 3 for device in layer["device_list"])


def test_layers_must_share_one_layout(tmp_path):
    mixed = {0: plans()[0], 1: plans(slots=2)[1]}
    with pytest.raises(InputError, match="same ranks and slots"):
        vllm_ascend.write_placement(mixed, tmp_path / "map.json")


def test_a_rank_without_experts_cannot_be_told():
    layout = us.EPLayout(num_ranks=4, num_experts=2, slots_per_rank=0)
    with pytest.raises(InputError, match="a rank holds no expert"):
        slot_experts(us.plan(np.array([5, 5]), layout, policy="none"))
