import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trace.toys import toy_meta
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import TraceMeta


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""),
        ("model", 3),
        ("num_experts", 0),
        ("num_experts", 8.0),
        ("num_experts", True),
        ("num_experts", 10**9),
        ("num_experts", np.int64(8)),
        ("top_k", 9),
        ("num_layers", -1),
        ("source_ranks", 2**40),
        ("tokens_per_rank", 0),
        ("phase", "decode"),
        ("recorded", "  "),
        ("synthetic", 1),
        ("sampling", {"every": 2}),
        ("sampling", {"step_every": 0}),
        ("sampling", {"steps": [[5, 5]]}),
        ("sampling", {"steps": [3]}),
        ("sampling", {"layers": [0, "1"]}),
        ("notes", {"x": float("nan")}),
        ("notes", {"x": object()}),
        ("notes", {1: "number as key"}),
        ("notes", []),
    ],
)
def test_an_impossible_field_is_named(field, value):
    with pytest.raises(TraceError) as caught:
        toy_meta(**{field: value})
    assert f"metadata.{field}" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    notes=st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.lists(st.none())),
        max_size=3,
    ),
    every=st.integers(1, 100),
)
@settings(max_examples=25, deadline=None)
def test_json_round_trip(notes, every):
    meta = toy_meta(notes=notes, sampling={"step_every": every})
    assert TraceMeta.from_json(meta.to_json()) == meta
    assert TraceMeta.from_json(meta.to_json().encode()).to_json() == meta.to_json()


def changed(**members):
    return json.dumps({**json.loads(toy_meta().to_json()), **members})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"\xff\xfe", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format_version": NaN}', "not JSON"),
        ("[1]", "not a JSON object"),
        ("{}", "format_version"),
        (changed(format_version=2), "newer than the 1"),
        (changed(format_version="1"), "format_version"),
        (changed(colour="red"), "colour is not a metadata field"),
        (changed(num_experts="8"), "num_experts is not an integer"),
        (changed(num_experts=10**18), "num_experts must lie in"),
    ],
)
def test_bad_json_is_refused_in_one_line(text, says):
    with pytest.raises(TraceError) as caught:
        TraceMeta.from_json(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named():
    members = json.loads(toy_meta().to_json())
    del members["top_k"]
    with pytest.raises(TraceError, match="top_k is missing"):
        TraceMeta.from_json(json.dumps(members))


def test_kind_says_synthetic_loudly():
    assert toy_meta(synthetic=True).kind == "SYNTHETIC"
    assert toy_meta(synthetic=False).kind == "recorded"
