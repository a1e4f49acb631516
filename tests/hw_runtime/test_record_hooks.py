"""The recorder's own rules: positions, sources, padding, failures, files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hw_runtime.record import RecordError, RouterRecorder, Sources, find_routers  # noqa: E402
from hw_runtime.record.recorder import histogram  # noqa: E402
from hw_runtime.record.tiny_moe import TinyMoE, TinyMoEConfig  # noqa: E402
from ultraep_sim.errors import InputError  # noqa: E402

CONFIG = TinyMoEConfig(layers=2, experts=8, top_k=2, width=16, heads=2, expert_width=8, sequence=12)


def batch(sequences: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (sequences, CONFIG.sequence), generator=generator)


def chosen(model: TinyMoE, data: torch.Tensor) -> list[np.ndarray]:
    """Ids [sequences, length, k] per layer from the router's outputs."""
    ids: list[np.ndarray] = []
    handles = [
        r.register_forward_hook(lambda _m, _i, out: ids.append(out[1].numpy()))
        for r in model.routers()
    ]
    with torch.no_grad():
        model(data)
    for handle in handles:
        handle.remove()
    return [i.reshape(*data.shape, -1) for i in ids]


@pytest.mark.parametrize("balance", ["aux", "bias"])
def test_own_model_by_sequence(balance: str, sink) -> None:
    from dataclasses import replace

    model = TinyMoE(replace(CONFIG, balance=balance))
    for router in model.routers():
        router.selection_bias += torch.linspace(-0.2, 0.2, 8) * (balance == "bias")
    data = batch()
    with RouterRecorder(model, sink, sources=Sources.by_sequence(4)), torch.no_grad():
        model(data)
    for layer, ids in enumerate(chosen(model, data)):
        wanted = [np.bincount(rows.ravel(), minlength=8) for rows in ids]
        np.testing.assert_array_equal(sink.loads()[layer], wanted)


def test_the_selection_bias_only_selects() -> None:
    # DeepSeek-V3: the bias moves the choice, never the weights of what was chosen.
    from dataclasses import replace

    router = TinyMoE(replace(CONFIG, balance="bias")).routers()[0]
    x = torch.randn(5, CONFIG.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        router.selection_bias[3] = 10.0
        weights, experts, scores = router(x)
    assert (experts == 3).any(dim=1).all()
    raw = scores.gather(1, experts)
    torch.testing.assert_close(weights, raw / raw.sum(1, keepdim=True))


def test_micro_batches_and_steps_are_numbered(sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink, first_step=7, flush_every=3) as recorder:
        for _ in range(2):
            for micro_batch in range(2):
                logits, _ = model(batch(seed=micro_batch))
                logits.sum().backward()
            recorder.end_step()
    assert sink.keys == [(s, m, layer) for s in (7, 8) for m in (0, 1) for layer in (0, 1)]
    np.testing.assert_array_equal(sink.loads(7, 1), sink.loads(8, 1))
    assert (sink.loads(7, 0) != sink.loads(7, 1)).any()


def test_only_the_wanted_steps_are_recorded(sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink, steps=[(1, 2), (3, 5)]) as recorder, torch.no_grad():
        for _ in range(6):
            model(batch())
            recorder.end_step()
    assert sorted({key[0] for key in sink.keys}) == [1, 3, 4]


def test_explicit_sources_per_token(sink) -> None:
    model, data = TinyMoE(CONFIG), batch(2)
    owner = torch.arange(data.numel()).reshape(data.shape) % 3
    sources = Sources.explicit(3)
    sources.assign(owner)
    with RouterRecorder(model, sink, sources=sources), torch.no_grad():
        model(data)
    ids = chosen(model, data)[1]
    wanted = [np.bincount(ids[owner.numpy() == r].ravel(), minlength=8) for r in range(3)]
    np.testing.assert_array_equal(sink.loads()[1], wanted)


def test_this_rank_fills_one_row(sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink, sources=Sources.this_rank(2, 4)), torch.no_grad():
        model(batch())
    assert sink.loads()[0].sum(1).tolist() == [0, 0, 4 * 12 * 2, 0]


def test_two_sequences_of_a_rank_and_a_short_last_batch(sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink, sources=Sources.by_sequence(4, 2)), torch.no_grad():
        model(batch(7))
    assert sink.loads()[0].sum(1).tolist() == [48, 48, 48, 24]


@pytest.mark.parametrize(
    ("sources", "sequences", "problem"),
    [
        (Sources.by_sequence(3), 4, "4 sequences do not divide over 3"),
        (Sources.by_sequence(3, 1), 4, "more than 3 ranks x 1"),
        (Sources.explicit(2), 4, "assign"),
    ],
)
def test_a_batch_that_does_not_fit_the_sources(
    sources: Sources, sequences: int, problem: str, sink
) -> None:
    model = TinyMoE(CONFIG)
    with pytest.raises(RecordError, match=problem), RouterRecorder(model, sink, sources=sources):
        model(batch(sequences))
    assert not sink.records


@pytest.mark.parametrize("value", [torch.tensor([0, 2]), torch.tensor([-1, 0])])
def test_an_assigned_rank_out_of_range(value: torch.Tensor) -> None:
    with pytest.raises(RecordError, match=r"0\.\.1"):
        Sources.explicit(2).assign(value)


class Masked(torch.nn.Module):
    """Our model behind an ``attention_mask`` argument it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyMoE(CONFIG)

    def forward(
        self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.inner(tokens)[0]


def test_a_positional_mask_is_found_and_a_batch_of_padding_is_skipped(sink) -> None:
    model, data = Masked(), batch(2)
    mask = torch.ones_like(data)
    mask[1] = 0
    with RouterRecorder(model, sink, sources=Sources.by_sequence(2)), torch.no_grad():
        model(data, mask)
        model(data, torch.zeros_like(mask))
        model(data, mask)
    assert sink.loads()[0].sum(1).tolist() == [24, 0]
    assert [k[1] for k in sink.keys] == [0, 0, 2, 2]


def test_a_mask_that_hides_its_padding_is_refused(sink) -> None:
    model, data = Masked(), batch(2)
    with (
        pytest.raises(RecordError, match="padding"),
        RouterRecorder(model, sink),
        torch.no_grad(),
    ):
        model(data, attention_mask=torch.zeros(2, 1, 12, 12))


def test_a_model_without_moe_layers(sink) -> None:
    with pytest.raises(RecordError, match="no mixture-of-experts layer found in Linear"):
        RouterRecorder(torch.nn.Linear(4, 4), sink)


class OddRouter(torch.nn.Module):
    """Looks like a router; returns what ``answer`` makes."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.top_k, self.answer = 2, answer
        self.weight = torch.nn.Parameter(torch.zeros(8, 4))

    def forward(self, x: torch.Tensor) -> object:
        return self.answer(x.reshape(-1, 4).shape[0])


class OneLayer(torch.nn.Module):
    def __init__(self, *routers: torch.nn.Module) -> None:
        super().__init__()
        self.routers = torch.nn.ModuleList(routers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for router in self.routers:
            router(x)
        return x


def two_ids(n: int, dtype=torch.int64) -> torch.Tensor:
    return torch.tensor([1, 5], dtype=dtype).repeat(n, 1)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda n: torch.zeros(n, 8), "cannot tell the chosen experts"),
        (lambda n: (two_ids(n), two_ids(n)), "cannot tell the chosen experts"),
        (lambda n: (torch.zeros(n, 2), two_ids(n)[:-1]), "saw 5 tokens of a batch of 6"),
        (lambda n: two_ids(n) + 4, "outside 0..7"),
        (lambda n: two_ids(n) - 2, "outside 0..7"),
    ],
)
def test_outputs_that_cannot_be_understood(answer, problem: str, sink) -> None:
    model = OneLayer(OddRouter(answer))
    with pytest.raises(RecordError, match=problem) as caught, RouterRecorder(model, sink):
        model(torch.zeros(2, 3, 4))
    assert "\n" not in str(caught.value)
    assert not sink.records


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.uint8, torch.int64])
def test_ids_of_any_integer_type_first_or_last(dtype: torch.dtype, sink) -> None:
    first = OddRouter(lambda n: (two_ids(n, dtype), torch.ones(n, 2)))
    last = OddRouter(lambda n: {"scores": torch.ones(n, 8), "ids": two_ids(n, dtype)})
    model = OneLayer(first, last)
    with RouterRecorder(model, sink):
        model(torch.zeros(2, 3, 4))
    assert sink.loads()[:, 0].tolist() == [[0, 6, 0, 0, 0, 6, 0, 0]] * 2


class MixtralSparseMoeBlock(torch.nn.Module):
    """The form of transformers 4: a linear gate inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.top_k, self.gate = 2, torch.nn.Linear(4, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x.reshape(-1, 4))


def test_a_linear_gate_counts_the_top_k_of_its_logits(sink) -> None:
    block = MixtralSparseMoeBlock()
    model = OneLayer(block)
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert [r.name for r in find_routers(model)] == ["routers.0.gate"]
    with RouterRecorder(model, sink), torch.no_grad():
        model(x)
    ids = block.gate(x.reshape(-1, 4)).topk(2).indices.ravel()
    assert sink.loads()[0, 0].tolist() == torch.bincount(ids, minlength=8).tolist()


def test_a_shared_router_cannot_be_told_apart(sink) -> None:
    router = OddRouter(two_ids)

    class Twice(OneLayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(super().forward(x))

    model = Twice(router)
    with pytest.raises(RecordError, match="ran twice"), RouterRecorder(model, sink):
        model(torch.zeros(2, 3, 4))


def test_a_forward_that_raises_is_not_recorded(sink, new_sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink), torch.no_grad():
        handle = model.head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(batch(seed=1))
        handle.remove()
        model(batch(seed=2))
    plain = new_sink()
    with RouterRecorder(model, plain), torch.no_grad():
        model(batch(seed=2))
    assert len(sink.records) == 2
    np.testing.assert_array_equal(sink.records[0][3], plain.records[0][3])


def test_nothing_recorded_is_an_error(sink) -> None:
    recorder = RouterRecorder(TinyMoE(CONFIG), sink)
    with pytest.raises(RecordError, match="nothing was recorded"), recorder:
        pass


def test_hooks_are_removed(sink) -> None:
    model = TinyMoE(CONFIG)
    with RouterRecorder(model, sink), torch.no_grad():
        model(batch())
    before = len(sink.records)
    model(batch())
    assert len(sink.records) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_histogram_that_does_not_wait_is_the_same() -> None:
    key = torch.randint(0, 9, (500,), generator=torch.Generator().manual_seed(0))
    wanted = [(key == value).sum().item() for value in range(11)]
    assert histogram(key, 11, wait=True).tolist() == wanted
    assert histogram(key, 11, wait=False).tolist() == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_the_gpu_counts_the_same(sink, new_sink, hf_model) -> None:
    model, tokens, plain = hf_model("deepseek_v3"), batch() % 64, new_sink()
    for device, out in (("cpu", plain), ("cuda", sink)):
        model.to(device)
        with RouterRecorder(model, out, sources=Sources.by_sequence(4)), torch.no_grad():
            model(input_ids=tokens.to(device))
    # Rounding may flip a near tie; the totals may not differ.
    assert np.abs(sink.loads() - plain.loads()).sum() <= 4
    np.testing.assert_array_equal(sink.loads().sum(2), plain.loads().sum(2))


# -- files ------------------------------------------------------------------------------------


def test_a_file_round_trip(tmp_path: Path, sink) -> None:
    pytest.importorskip("pyarrow")
    from ultraep_sim.trace import load_trace

    model, path = TinyMoE(CONFIG), tmp_path / "t.parquet"
    kept = sink
    for out in (kept, path):
        with (
            RouterRecorder(
                model, out, sources=Sources.by_sequence(4), steps=[(0, 1), (2, 3)], phase="prefill"
            ) as recorder,
            torch.no_grad(),
        ):
            for step in range(3):
                model(batch(seed=step))
                recorder.end_step()
    trace = load_trace(path)
    assert trace.meta.synthetic is False
    assert (trace.meta.num_experts, trace.meta.top_k, trace.meta.num_layers) == (8, 2, 2)
    assert (trace.meta.source_ranks, trace.meta.tokens_per_rank) == (4, 12)
    assert trace.meta.sampling == {"steps": [[0, 1], [2, 3]]}
    assert trace.meta.notes["layer_names"] == ["blocks.0.moe.router", "blocks.1.moe.router"]
    read = list(trace)
    assert [(r.step, r.micro_batch, r.layer) for r in read] == kept.keys
    for record, (_, _, _, loads) in zip(read, kept.records, strict=True):
        np.testing.assert_array_equal(record.loads, loads)


@pytest.mark.parametrize("wrong", [{"notes": {"a": (1,)}}, {"phase": "decode"}])
def test_metadata_that_cannot_be_written_is_refused_at_once(tmp_path: Path, wrong) -> None:
    pytest.importorskip("pyarrow")
    recorder = RouterRecorder(TinyMoE(CONFIG), tmp_path / "t.parquet", **wrong)
    with pytest.raises(InputError):
        recorder.__enter__()
    assert not recorder.model._forward_hooks


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    model = TinyMoE(CONFIG)

    def users_loop() -> None:
        with RouterRecorder(model, tmp_path / "t.parquet", flush_every=1):
            model(batch())
            raise KeyError("in the user's loop")

    with pytest.raises(KeyError):
        users_loop()
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, os, signal, torch
from hw_runtime.record import RouterRecorder
from hw_runtime.record.tiny_moe import TinyMoE, TinyMoEConfig
model = TinyMoE(TinyMoEConfig(layers=2, experts=8, top_k=2, width=16, heads=2, expert_width=8))
with RouterRecorder(model, sys.argv[1], flush_every=1) as recorder:
    while True:
        model(torch.zeros(2, 8, dtype=torch.long))
        recorder.end_step()
        if recorder.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    # What is left under another name is not readable as a trace.
    from ultraep_sim.errors import TraceError
    from ultraep_sim.trace import load_trace

    for left in tmp_path.iterdir():
        with pytest.raises(TraceError):
            load_trace(left)


def test_without_pyarrow_the_error_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    recorder = RouterRecorder(TinyMoE(CONFIG), tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="pip install pyarrow"):
        recorder.__enter__()
