from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import ScenarioError
from ultraep_sim.scenario import Scenario, load_scenario, scenario_from_dict

GOOD = """\
name: good
model: qwen3-235b
rack: paper-rack64
ep: {ranks: 64, slots_per_rank: 2}
workload:
  synthetic: {imbalance: 1.3, layers: 2, steps: 4}
  tokens_per_rank: 64
policies: [none, {name: eplb, label: e50, cadence_steps: 50}, ultraep]
engine: {relay: off}
"""
SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    return file


def error_of(tmp_path: Path, text: str, *sets: str) -> str:
    file = write(tmp_path, text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file, sets)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_scenario_gives_nested_models(tmp_path):
    scenario = load_scenario(write(tmp_path, GOOD))
    assert isinstance(scenario, Scenario)
    assert scenario.model.num_experts == 128
    assert scenario.rack.domain_size == 64
    assert (scenario.layout.num_ranks, scenario.layout.slots_per_rank) == (64, 2)
    assert [p.label for p in scenario.policies] == ["none", "e50", "ultraep"]
    assert scenario.policies[1].options == {"cadence_steps": 50}
    assert scenario.engine.relay == "off"  # a plain word, not YAML 1.1's false
    assert scenario.source_path == tmp_path / "s.yaml"


def test_a_domain_is_never_larger_than_the_group(tmp_path):
    scenario = load_scenario(write(tmp_path, GOOD), ["ep.ranks=40"])
    assert scenario.domain_size == 40


def test_the_resolved_dump_reloads_to_the_same_scenario(tmp_path):
    trace = tmp_path / "t.parquet"
    trace.touch()
    text = GOOD.replace(
        "  synthetic: {imbalance: 1.3, layers: 2, steps: 4}\n", "  trace: t.parquet\n"
    ).replace("rack: paper-rack64", "rack: {preset: paper-rack64, overrides: {stream_GBps: 500}}")
    first = load_scenario(write(tmp_path, text), ["model.layers=10"])
    elsewhere = tmp_path / "runs" / "x"
    elsewhere.mkdir(parents=True)
    dump = first.to_yaml(elsewhere)
    assert str(tmp_path) not in dump  # it names the trace relative to where it lies
    (elsewhere / "scenario.yaml").write_text(dump)
    again = load_scenario(elsewhere / "scenario.yaml")
    assert again.model_dump() == first.model_dump()
    assert again.workload.trace.resolve() == trace.resolve()
    assert again.rack.stream_GBps.value == 500
    assert again.model.layers == 10
    assert again.to_yaml(elsewhere) == dump


def test_the_values_do_not_depend_on_where_the_project_lies(tmp_path):
    dicts = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "t.parquet").touch()
        text = GOOD.replace("synthetic: {imbalance: 1.3, layers: 2, steps: 4}", "trace: t.parquet")
        dicts.append(load_scenario(write(folder, text)).to_dict())
    assert dicts[0] == dicts[1]


@pytest.mark.parametrize(
    ("sets", "path", "value"),
    [
        ("ep.slots_per_rank=4", "ep.slots_per_rank", 4),
        ("policies.1.cadence_steps=7", "policies.1.options", {"cadence_steps": 7}),
        ("policies[1].cadence_steps=7", "policies.1.options", {"cadence_steps": 7}),
        ("policies.2.target=1.05", "policies.2.options", {"target": 1.05}),
        ("policies.0=ideal", "policies.0.name", "ideal"),
        ("policies.3=ideal", "policies.3.name", "ideal"),
        ("engine.relay=auto", "engine.relay", "auto"),
        ("workload.steps=[0, 3]", "workload.steps", (0, 3)),
        ("rack.stream_GBps=500", "rack.stream_GBps.value", 500.0),
        ("model.layers=10", "model.layers", 10),
        ("seed=7", "seed", 7),
    ],
)
def test_set_changes_one_value(tmp_path, sets, path, value):
    found = load_scenario(write(tmp_path, GOOD), [sets])
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value


def test_a_trace_in_an_override_is_relative_to_the_current_directory(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (tmp_path / "t.parquet").touch()
    monkeypatch.chdir(tmp_path)
    sets = ["workload.synthetic=null", "workload.trace=t.parquet"]
    scenario = load_scenario(write(folder, GOOD), sets)
    assert scenario.workload.trace == tmp_path / "t.parquet"


# text to replace, replacement, what the one line must hold: place, value, remedy
BAD = [
    ("slots_per_rank: 2", "slots_per_rnk: 2", ["line 4", "slots_per_rnk", "2", "did you mean"]),
    ("model: qwen3-235b", "modle: qwen3-235b", ["line 2", "modle", "did you mean 'model'"]),
    ("qwen3-235b", "qwen3-253b", ["line 2", "model", "qwen3-253b", "did you mean 'qwen3-235b'"]),
    ("paper-rack64", "paper-rak64", ["line 3", "rack", "paper-rak64", "did you mean"]),
    ("paper-rack64", "{scale_up: 1}", ["line 3", "rack", "preset"]),
    ("paper-rack64", "{preset: paper-rack64, strem_GBps: 5}", ["strem_GBps", "did you mean"]),
    ("paper-rack64", "{preset: paper-rack64, stream_GBps: -5}", ["line 3", "stream_GBps", "-5"]),
    ("ranks: 64", 'ranks: "64"', ["line 4", "ep.ranks", "'64'", "whole number"]),
    ("ranks: 64", "ranks: 64.5", ["line 4", "ep.ranks", "64.5"]),
    ("ranks: 64", "ranks: 0", ["line 4", "ep.ranks", "0", "range"]),
    ("ranks: 64", "ranks: true", ["line 4", "ep.ranks", "True"]),
    ("slots_per_rank: 2", "slots_per_rank: 129", ["line 4", "129", "128 experts", "give 0 to 128"]),
    ("slots_per_rank: 2", "slots_per_rank: -1", ["line 4", "slots_per_rank", "-1"]),
    ("slots_per_rank: 2", "slots_per_rank: 2, domain_size: 65", ["line 4", "65", "64 ranks"]),
    ("imbalance: 1.3", "imbalance: 0.3", ["line 6", "imbalance", "0.3"]),
    ("imbalance: 1.3", "imbalance: .nan", ["line 6", "imbalance", "nan"]),
    ("tokens_per_rank: 64", "tokens_per_rank: 0", ["line 7", "tokens_per_rank", "0", "range"]),
    ("  tokens_per_rank: 64\n", "", ["workload", "tokens_per_rank"]),
    ("64\npol", "64\n  steps: [5, 2]\npol", ["line 8", "workload.steps", "[5, 2]"]),
    ("64\npol", "64\n  trace: no.parquet\npol", ["workload", "exactly one"]),
    ("cadence_steps: 50", "cadence_step: 50", ["line 8", "cadence_step", "did you mean"]),
    ("cadence_steps: 50", "cadence_steps: 0", ["line 8", "policies.1.cadence_steps", "0"]),
    ("ultraep]", "ultrap]", ["line 8", "policies.2.name", "ultrap", "did you mean ultraep"]),
    ("label: e50", "label: none", ["line 8", "policies", "none"]),
    ("relay: off", "relay: of", ["line 9", "engine.relay", "'of'", "did you mean 'off'"]),
    ("relay: off", "relay: off, relay: auto", ["line 9", "relay", "twice"]),
    ("name: good\n", "", ["name", "missing", "add name:"]),
    ("name: good", "name: ../../etc", ["line 1", "name", "../../etc"]),
    ("name: good", "name: !!python/object/apply:os.system [id]", ["line 1", "tags"]),
    ("name: good", "name: [good", ["line", "not valid YAML"]),
    ("policies:", "policies: &a [*a]\nx:", ["nested too deeply"]),
]


@pytest.mark.parametrize(("old", "new", "needles"), BAD, ids=[f"{o}->{n}" for o, n, _ in BAD])
def test_a_bad_file_names_file_line_key_value_and_remedy(tmp_path, old, new, needles):
    assert old in GOOD
    message = error_of(tmp_path, GOOD.replace(old, new, 1))
    assert "s.yaml" in message
    assert re.search(r"; \S", message), f"no remedy in: {message}"
    for needle in needles:
        assert needle in message, f"{needle!r} not in: {message}"


def test_a_missing_trace_is_named(tmp_path):
    text = GOOD.replace("synthetic: {imbalance: 1.3, layers: 2, steps: 4}", "trace: no/t.parquet")
    message = error_of(tmp_path, text)
    for needle in ("s.yaml", "line 6", "workload.trace", "no/t.parquet", "synthetic"):
        assert needle in message


@pytest.mark.parametrize(
    ("sets", "needles"),
    [
        ("ep.ranks", ["--set ep.ranks", "not path=value"]),
        ("=3", ["--set =3", "not path=value"]),
        ("ep..ranks=3", ["--set ep..ranks=3"]),
        ("ep.ranks=[", ["--set ep.ranks=[", "not valid YAML"]),
        ("ep.ranks=abc", ["--set ep.ranks=abc", "'abc'", "whole number"]),
        ("ep.rank=3", ["--set ep.rank=3", "did you mean 'ranks'"]),
        ("policies.9.target=1", ["--set policies.9.target=1", "index from 0 to 2"]),
        ("policies.x=none", ["--set policies.x=none", "list of 3"]),
        ("seed.x=1", ["--set seed.x=1"]),
        ("ep.ranks.x=1", ["--set ep.ranks.x=1", "plain value"]),
        (
            "workload={trace: no.parquet}",
            ["--set workload={trace: no.parquet}", "there is no trace"],
        ),
    ],
)
def test_a_bad_override_names_itself(tmp_path, sets, needles):
    message = error_of(tmp_path, GOOD + "seed: 0\n", sets)
    assert "; " in message
    for needle in needles:
        assert needle in message, message


def test_more_pipeline_stages_than_layers(tmp_path):
    text = GOOD.replace("slots_per_rank: 2", "slots_per_rank: 2, pipeline_stages: 1000")
    message = error_of(tmp_path, text)
    for needle in ("s.yaml", "line 4, ep.pipeline_stages", "94 layers", "1000", "give 1 to 94"):
        assert needle in message, message
    load_scenario(write(tmp_path, text.replace("1000", "94")))


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("policies.-1=ideal", "an index from 0 to 2, or 3 to append"),
        ("policies.-1.label=x", "an index from 0 to 2"),
    ],
)
def test_the_bound_of_an_index_says_what_appends(tmp_path, text, bound):
    assert error_of(tmp_path, GOOD, text).endswith(bound)
    appended = load_scenario(write(tmp_path, GOOD), ["policies.3=ideal"])
    assert appended.policies[3].name == "ideal"


def test_files_that_are_no_scenario(tmp_path):
    for name, content, needle in (
        ("empty", b"", "empty"),
        ("comment", b"# nothing\n", "empty"),
        ("list", b"- a\n", "mapping"),
        ("binary", b"PAR1\xff\xfe\x00", "UTF-8"),
        ("control", b"name: \x01\n", "not valid YAML"),
        ("large", b"#" * 1_000_001, "too large"),
        ("deep", b"[" * 5000, "nested too deeply"),
        ("documents", b"a: 1\n---\nb: 2\n", "YAML"),
        ("digits", b"name: a\nseed: " + b"9" * 5000, "cannot be read"),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_bytes(content)
        with pytest.raises(ScenarioError, match=needle) as caught:
            load_scenario(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ScenarioError, match=r"no such scenario file.*did you mean"):
        load_scenario(tmp_path / "lists.yaml")
    with pytest.raises(ScenarioError, match="directory"):
        load_scenario(tmp_path)


def test_aliases_cannot_blow_up(tmp_path):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [
        f"{n}: &{n} [{','.join([f'*{p}'] * 10)}]" for p, n in zip("abcdef", "bcdefg", strict=True)
    ]
    assert "too many values" in error_of(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda path: path.stem)
def test_shipped_scenarios_are_strict_and_labelled(file):
    raw = yaml.safe_load(file.read_text())
    if "trace" in raw["workload"]:
        trace = file.parent / raw["workload"]["trace"]
        assert trace.is_file(), "a shipped scenario replays a trace that ships"
    else:
        assert "SYNTHETIC" in file.read_text()
    scenario = load_scenario(file)
    assert scenario.name == file.stem
    assert {p.name for p in scenario.policies} == {"none", "eplb", "eplb_plus", "ultraep", "ideal"}


def test_the_set_of_shipped_scenarios():
    models = ("deepseek-v3", "glm-4.5-air", "glm-4.7", "qwen3-235b")
    wanted = {f"{m}-{phase}" for m in models for phase in ("training", "prefill")}
    served = {"qwen3-235b-serving", "qwen3-235b-serving-mixed"}
    served |= {"serving-domain-switch", "serving-sparse-attention"}
    assert {path.stem for path in SCENARIOS} == wanted | served | {"quickstart"}


def test_a_scenario_can_be_built_in_python():
    scenario = scenario_from_dict(yaml.safe_load(GOOD.replace("relay: off", "relay: auto")))
    assert scenario.source_path is None
    assert scenario_from_dict(scenario.to_dict()).model_dump() == scenario.model_dump()


# fmt: off
WORDS = st.sampled_from([
    "0", "-1", "1e999", ".nan", ".inf", "null", "~", "none", "true", "x", "é", "\u2028", "9" * 30,
    "[]", "{}", "[1, 2]", "{a: 1}", "'", '"', ":", "- ", "? ", "|", ">", "#", "\t", "\n\n",
    "&a", "*a", "!!int x", "!x", "a.b", "policies",
])
# fmt: on


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cuts=st.lists(
        st.tuples(
            st.integers(0, len(GOOD)),
            st.integers(0, 12),
            st.one_of(WORDS, st.text("ab:[{}],-0 \n", max_size=6)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_mutation_is_a_scenario_or_a_scenario_error(tmp_path_factory, cuts):
    text = GOOD
    for at, length, new in cuts:
        text = text[:at] + new + text[at + length :]
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(text)
    try:
        scenario = load_scenario(file)
    except ScenarioError as error:
        message = str(error)
    else:
        message = "fuzz.yaml"
        assert scenario_from_dict(scenario.to_dict()).model_dump() == scenario.model_dump()
    assert "fuzz.yaml" in message
    assert "\n" not in message
