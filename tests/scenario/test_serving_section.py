"""The sections of a serving scenario: what they take and refuse, each in one line."""

from __future__ import annotations

import copy

import pytest
import yaml

from tests.serving.helpers import TINY, tiny
from ultraep_sim.errors import InputError
from ultraep_sim.scenario import load_scenario, scenario_from_dict
from ultraep_sim.scenario.serving import ServingSpec


def error_of(*settings: str, drop: str = "") -> str:
    """Change TINY, written as ``a.b=YAML``, and return the one line that refuses it."""
    raw = copy.deepcopy(TINY)
    if drop:
        del raw[drop]
    for setting in settings:
        place, _, text = setting.partition("=")
        *parents, key = place.split(".")
        holder = raw
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[key] = yaml.safe_load(text)
    with pytest.raises(InputError) as caught:
        scenario_from_dict(raw)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


REQUESTS = "workload.requests"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # The numbers.
        ("serving.token_budget=0", "serving.token_budget"),
        ("serving.timeout_s=0", "serving.timeout_s"),
        ("serving.max_queue=0", "serving.max_queue"),
        ("serving.router=fastest", "serving.router"),
        ("serving.slo={ttft_s: 0}", "serving.slo.ttft_s"),
        ("serving.slo={statistic: p90}", "serving.slo.statistic"),
        ("serving.cancelled={share: 1.5, after_s: 1}", "serving.cancelled.share"),
        ("serving.sparse={kept: 0}", "serving.sparse.kept"),
        ("serving.kv_dtype=int4", "serving.kv_dtype"),
        ("serving.draw=both", "serving.draw"),
        ("serving.overhead_ms=-1", "serving.overhead_ms"),
        ("serving.budget=4096", "serving.budget"),
        (f"{REQUESTS}.arrivals={{}}", f"{REQUESTS}.arrivals"),
        (f"{REQUESTS}.arrivals={{rate_per_s: 0}}", f"{REQUESTS}.arrivals.rate_per_s"),
        (f"{REQUESTS}.arrivals={{rate_per_s: .inf}}", f"{REQUESTS}.arrivals.rate_per_s"),
        (f"{REQUESTS}.duration_s=-1", f"{REQUESTS}.duration_s"),
        (f"{REQUESTS}.lengths=null", f"{REQUESTS}: a Poisson process needs lengths"),
        (f"{REQUESTS}.lengths={{mean: 10, shortest: 20}}", "shortest <= mean <= longest"),
        (f"{REQUESTS}.domains={{mix: nosuch}}", f"{REQUESTS}.domains.mix"),
        (f"{REQUESTS}.domains={{mix: {{a: -1}}}}", f"{REQUESTS}.domains.mix"),
        (f"{REQUESTS}.domains={{mix: {{a: 0}}}}", f"{REQUESTS}.domains.mix"),
        (f"{REQUESTS}.domains={{mix: {{}}}}", f"{REQUESTS}.domains.mix"),
        (f"{REQUESTS}.routing={{imbalance: 0.5}}", f"{REQUESTS}.routing.imbalance"),
        (f"{REQUESTS}.routing={{}}", f"{REQUESTS}.routing.imbalance"),
        (f"{REQUESTS}.prefix={{fraction: 1}}", f"{REQUESTS}.prefix.fraction"),
        (f"{REQUESTS}.prefix={{recorded: true}}", "prefix.recorded needs a file"),
        # What does not go together.
        ("serving.timeout_s=1", "timeout_s below slo.ttft_s"),
        ("serving.warmup_s=3", "serving.warmup_s: nothing is left to count"),
        ("serving.sample_layers=49", "serving.sample_layers: more than the 48 MoE layers"),
        ("workload.phase=training", "workload.phase: serving is prefill"),
        ("engine.mode=event", "engine.mode"),
        ("engine.overlap=two_batch", "engine.overlap"),
        ("engine.overlap=dualpipe", "engine.overlap"),
        (
            "training={micro_batches: 4}",
            "training: does not go with serving (got 'training and serving')",
        ),
        ("ep.pipeline_stages=2", "ep.pipeline_stages"),
        ("ep.data_parallel=2", "ep.pipeline_stages"),
        ("workload.tokens_per_rank=0", "workload.tokens_per_rank"),
    ],
)
def test_bad_values_are_named(override, words) -> None:  # type: ignore[no-untyped-def]
    assert words in error_of(override)


def test_changes_come_one_after_the_other() -> None:
    changes = "[{at_s: 5, mix: {a: 1}, over_s: 3}, {at_s: 7, mix: {b: 1}}]"
    text = error_of(f"{REQUESTS}.domains={{mix: {{a: 1}}, changes: {changes}}}")
    assert "the change at 7 s begins before the last one ends" in text


def test_requests_and_serving_come_together() -> None:
    assert "workload.requests is given and serving is not" in error_of(drop="serving")
    text = error_of(
        "workload={synthetic: {imbalance: 1.3}, tokens_per_rank: 64}",
    )
    assert "serving is given and workload.requests is not (got 'serving alone')" in text


def test_requests_are_one_of_three_workloads() -> None:
    text = error_of("workload.synthetic={imbalance: 1.3}", "workload.tokens_per_rank=64")
    assert "exactly one of trace, synthetic and requests" in text


def test_an_empty_section_takes_the_defaults() -> None:
    raw = {**TINY, "serving": {}}
    raw["workload"] = {"requests": {**TINY["workload"]["requests"], "duration_s": 60.0}}
    assert scenario_from_dict(raw).serving == ServingSpec()


def test_a_serving_scenario_survives_its_dump(tmp_path) -> None:
    scenario = tiny(
        requests={
            "domains": {
                "mix": {"a": 1.0, "b": 1.0},
                "changes": [{"at_s": 1.0, "mix": {"b": 1.0}, "over_s": 0.5}],
                "bursts": {"every_s": 2.0, "lasting_s": 0.5},
            },
            "prefix": {"share": 0.2},
        },
        serving={"cancelled": {"share": 0.1, "after_s": 2.0}, "sparse": {}, "max_queue": 9},
    )
    file = tmp_path / "s.yaml"
    file.write_text(scenario.to_yaml(tmp_path))
    again = load_scenario(file)
    assert again.serving == scenario.serving
    assert again.workload == scenario.workload
