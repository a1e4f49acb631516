"""Files by the writers themselves: torch.save, safetensors, transformers' router logits."""

import numpy as np
import pytest

from tests.trace.formats.samples import COUNTS, EXPERTS, PLACEMENT, torch_file
from ultraep_sim.errors import TraceError
from ultraep_sim.trace.convert import judge_and_repair
from ultraep_sim.trace.formats import ReadOptions, open_dump
from ultraep_sim.trace.formats.arrays import Array
from ultraep_sim.trace.formats.safetensors_file import read_safetensors
from ultraep_sim.trace.formats.torch_file import read_torch

torch = pytest.importorskip("torch")

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")


def equal(mine, theirs):
    if isinstance(mine, Array):
        wide = theirs.float() if theirs.dtype == torch.bfloat16 else theirs
        assert np.array_equal(mine.load(), wide.detach().numpy())
        assert mine.shape == tuple(theirs.shape)
    elif isinstance(mine, dict):
        assert list(mine) == list(theirs)
        for key in mine:
            equal(mine[key], theirs[key])
    elif isinstance(mine, (list, tuple)):
        assert type(mine) is type(theirs)
        for a, b in zip(mine, theirs, strict=True):
            equal(a, b)
    else:
        assert type(mine) is type(theirs)
        assert mine == theirs


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_reads(protocol, tmp_path):
    from collections import OrderedDict

    base = torch.arange(24).reshape(2, 3, 4)
    value = {
        "list": [1, -(2**40), 0.5, True, False, None, "text", (1, 2, 3, 4), ()],
        "views": [base, base.transpose(0, 2), base[1, ::2], base[:, 1:, 2], torch.empty(0, 3)],
        "ordered": OrderedDict(a=torch.ones(2), b={"deep": [torch.zeros(1)]}),
        "parameter": torch.nn.Parameter(torch.rand(3)),
        **{name: torch.arange(5).to(getattr(torch, name)) for name in DTYPES},
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
    }
    torch.save(value, tmp_path / "a.pt", pickle_protocol=protocol)
    torch.save(value, tmp_path / "two.pt")  # the safe loader of torch knows protocol 2 only
    plain = torch.load(tmp_path / "two.pt", weights_only=True)
    plain["ordered"] = dict(plain["ordered"])
    equal(read_torch(tmp_path / "a.pt"), plain)


def test_a_sample_written_by_hand_is_what_torch_reads(tmp_path):
    (tmp_path / "a.pt").write_bytes(torch_file({"logical_count": COUNTS, "text": "x", "n": [1]}))
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert np.array_equal(loaded["logical_count"].numpy(), COUNTS)
    assert loaded["text"] == "x"


def test_the_recorder_of_sglang_by_torch(tmp_path):
    torch.save({"rank": 0, "logical_count": torch.from_numpy(COUNTS)}, tmp_path / "stat.pt")
    records = [
        {
            "forward_pass_id": 5 + step,
            "rank": 0,
            "gatherer_key": "primary",
            "topk_ids_of_layer": torch.tensor([[[0, 8]], [[0, 1]]], dtype=torch.int32),
        }
        for step in range(2)
    ]
    placement = torch.from_numpy(PLACEMENT)
    value = {"records": records, "last_physical_to_logical_map": placement}
    torch.save(value, tmp_path / "token.pt")
    stat = open_dump(tmp_path / "stat.pt", ReadOptions(top_k=2))
    assert np.array_equal(
        np.stack([r.loads[0] for r in stat.records()]).reshape(COUNTS.shape), COUNTS
    )
    token = list(open_dump(tmp_path / "token.pt").records())
    assert [record[:3] for record in token] == [(5, 0, 0), (5, 0, 1), (6, 0, 0), (6, 0, 1)]
    assert np.flatnonzero(token[0].loads[0]).tolist() == [0, 1]  # physical 8 is logical 1
    assert np.flatnonzero(token[1].loads[0]).tolist() == [6, 7]


def test_safetensors_by_its_package(tmp_path):
    save = pytest.importorskip("safetensors.torch").save_file
    tensors = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in (*DTYPES, "bool")
    }
    save(tensors, tmp_path / "a.safetensors", metadata={"by": "a test"})
    found = read_safetensors(tmp_path / "a.safetensors")
    assert set(found) == set(tensors)
    for name, array in found.items():
        equal(array, tensors[name])


def test_router_logits_of_a_transformers_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        output_router_logits=True,
    )
    torch.manual_seed(3)
    model = transformers.MixtralForCausalLM(config).eval()
    with torch.no_grad():
        out = model(torch.randint(0, 64, (2, 25)))
    torch.save(out.router_logits, tmp_path / "logits.pt")
    found = judge_and_repair(open_dump(tmp_path / "logits.pt", ReadOptions(top_k=2)))
    assert found.findings == []
    for record, logits in zip(found.dump.records(), out.router_logits, strict=True):
        chosen = logits.softmax(-1).topk(2, dim=-1).indices.ravel()
        counts = np.bincount(chosen.numpy(), minlength=EXPERTS)
        assert np.array_equal(record.loads[0], counts)
    assert len(list(found.dump.records())) == 3


def test_logits_that_are_no_numbers_are_refused(tmp_path):
    logits = torch.zeros(4, EXPERTS)
    logits[2, 3] = float("nan")
    torch.save([logits], tmp_path / "a.pt")
    dump = open_dump(tmp_path / "a.pt", ReadOptions(top_k=2))
    with pytest.raises(TraceError, match="a logit is not a number"):
        list(dump.records())


def test_types_that_the_reader_does_not_rebuild_are_refused_by_name(tmp_path):
    torch.save({"a": np.arange(3)}, tmp_path / "a.pt")
    with pytest.raises(TraceError, match="nothing was run"):
        read_torch(tmp_path / "a.pt")
    torch.save(torch.ones(2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(TraceError, match="never read"):
        open_dump(tmp_path / "old.pt")
