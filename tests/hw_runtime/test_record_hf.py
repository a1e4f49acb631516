"""The recorder on the five Hugging Face families, against counts found another way."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hw_runtime.record import RouterRecorder, Sources, find_routers  # noqa: E402

HF_FAMILIES = ("mixtral", "qwen3_moe", "deepseek_v3", "glm4_moe", "olmoe")
BATCH, LENGTH = 4, 10


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 64, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def executed(model: torch.nn.Module, **inputs: torch.Tensor) -> list[np.ndarray]:
    """Ids the expert kernels really received, [tokens, k] per layer: no router hook involved."""
    ids: list[np.ndarray] = []
    handles = [
        module.register_forward_pre_hook(lambda _m, args: ids.append(args[1].numpy().copy()))
        for name, module in model.named_modules()
        if name.endswith(".experts")
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return ids


def count(ids: np.ndarray, owner: np.ndarray, ranks: int, experts: int) -> np.ndarray:
    loads = np.zeros((ranks, experts), dtype=np.int64)
    for token, row in enumerate(owner):
        if row >= 0:
            for expert in ids[token]:
                loads[row, expert] += 1
    return loads


def by_definition(router: torch.nn.Module, logits: torch.Tensor) -> np.ndarray:
    """Ids from the published rule, written independently, sorted, [tokens, k]."""
    logits = logits.detach().numpy().astype(np.float64)
    if not hasattr(router, "e_score_correction_bias"):
        return np.sort(np.argsort(-logits, axis=1)[:, : router.top_k], axis=1)
    choice = 1 / (1 + np.exp(-logits)) + router.e_score_correction_bias.numpy()
    grouped = choice.reshape(len(choice), router.num_group, -1)
    best = np.sort(grouped, axis=2)[:, :, -2:].sum(2)
    allowed = np.argsort(-best, axis=1)[:, : router.topk_group]
    mask = np.zeros(best.shape, dtype=bool)
    np.put_along_axis(mask, allowed, True, axis=1)
    masked = np.where(mask[:, :, None], grouped, -np.inf).reshape(choice.shape)
    return np.sort(np.argsort(-masked, axis=1)[:, : router.top_k], axis=1)


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_counts_are_those_of_the_executed_experts(family: str, sink, hf_model) -> None:
    model, batch = hf_model(family), tokens()
    expected = executed(model, input_ids=batch)
    with RouterRecorder(model, sink, sources=Sources.by_sequence(2)), torch.no_grad():
        model(input_ids=batch)
    owner = np.repeat([0, 0, 1, 1], LENGTH)
    wanted = np.stack([count(ids, owner, 2, 8) for ids in expected])
    np.testing.assert_array_equal(sink.loads(), wanted)
    assert sink.keys == [(0, 0, layer) for layer in range(len(expected))]


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_counts_follow_the_published_selection_rule(family: str, sink, hf_model) -> None:
    model, batch = hf_model(family, seed=3), tokens(3)
    logits: list[torch.Tensor] = []
    routers = find_routers(model)
    for router in routers:
        router.module.register_forward_hook(lambda _m, _i, out: logits.append(out[0]))
    with RouterRecorder(model, sink), torch.no_grad():
        model(input_ids=batch)
    for layer, router in enumerate(routers):
        ids = by_definition(router.module, logits[layer].reshape(-1, 8))
        np.testing.assert_array_equal(sink.loads()[layer][0], np.bincount(ids.ravel(), minlength=8))


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_bias_and_groups_change_the_choice(family: str, sink, hf_model) -> None:
    # Otherwise the test above could pass with plain top-k of the logits.
    model = hf_model(family, seed=3)
    logits: list[torch.Tensor] = []
    find_routers(model)[0].module.register_forward_hook(lambda _m, _i, o: logits.append(o[0]))
    with RouterRecorder(model, sink), torch.no_grad():
        model(input_ids=tokens(3))
    plain = logits[0].topk(3, dim=-1).indices.numpy().ravel()
    assert (sink.loads()[0][0] != np.bincount(plain, minlength=8)).any()


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_agrees_with_output_router_logits(family: str, sink, hf_model) -> None:
    model, batch = hf_model(family), tokens(1)
    with RouterRecorder(model, sink), torch.no_grad():
        out = model(input_ids=batch, output_router_logits=True)
    for layer, logits in enumerate(out.router_logits):
        ids = logits.reshape(-1, 8).topk(2, dim=-1).indices.numpy().ravel()
        np.testing.assert_array_equal(sink.loads()[layer][0], np.bincount(ids, minlength=8))


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_padding_is_left_out(family: str, sink, hf_model) -> None:
    model, batch = hf_model(family), tokens()
    mask = torch.ones_like(batch)
    mask[0, :4] = 0  # left padding
    mask[2, 7:] = 0  # right padding
    expected = executed(model, input_ids=batch, attention_mask=mask)
    with RouterRecorder(model, sink, sources=Sources.by_sequence(4)), torch.no_grad():
        model(input_ids=batch, attention_mask=mask)
    owner = np.where(mask.numpy().ravel() == 1, np.repeat(np.arange(4), LENGTH), -1)
    wanted = np.stack([count(ids, owner, 4, 8) for ids in expected])
    np.testing.assert_array_equal(sink.loads(), wanted)
    k = expected[0].shape[1]
    assert sink.loads()[0].sum(1).tolist() == [6 * k, 10 * k, 7 * k, 10 * k]


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_does_not_count_twice(
    family: str, reentrant: bool, sink, new_sink, hf_model
) -> None:
    model, batch = hf_model(family).train(), tokens()
    plain = new_sink()
    with RouterRecorder(model, plain):
        model(input_ids=batch, labels=batch).loss.backward()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    forwards = []
    find_routers(model)[0].module.register_forward_hook(lambda *_: forwards.append(1))
    with RouterRecorder(model, sink):
        model(input_ids=batch, labels=batch).loss.backward()
    assert len(forwards) == 2, "the backward pass must have recomputed the layer"
    np.testing.assert_array_equal(sink.loads(), plain.loads())
    assert sink.keys == plain.keys


def test_a_checkpointed_whole_model_is_counted_once(sink, hf_model) -> None:
    from torch.utils.checkpoint import checkpoint

    model, batch = hf_model("mixtral").train(), tokens()
    with RouterRecorder(model, sink) as recorder:
        logits = checkpoint(lambda ids: model(input_ids=ids).logits, batch, use_reentrant=False)
        logits.sum().backward()
        assert recorder.micro_batch == 1
    assert sink.keys == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]


def test_dense_first_layers_are_not_numbered(sink, hf_model) -> None:
    names = [router.name for router in find_routers(hf_model("glm4_moe"))]
    assert names == ["model.layers.1.mlp.gate", "model.layers.2.mlp.gate"]
