from __future__ import annotations

import pytest

from ultraep_sim.sweep.condition import Condition

ROW = {"ep.ranks": 64, "slots": 2, "policy": "eplb", "fits": True, "none": None}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("ep.ranks * slots <= 128", True),
        ("ep.ranks / 2 > slots + 31", False),
        ("1 < slots < 3", True),
        ("1 < slots < 2", False),
        ("policy == 'eplb' and not slots > 2", True),
        ("policy in ['none', 'ultraep'] or fits", True),
        ("policy not in ('none',)", True),
        ("-slots == -2", True),
        ("fits and slots != 2", False),
        ("not fits", False),
        ("fits", True),
    ],
)
def test_it_decides(text, holds):
    assert Condition(text).holds(ROW) is holds


def test_it_names_its_columns():
    assert Condition("ep.ranks * slots <= 128 and a.b.c == 'x'").names == {
        "ep.ranks", "slots", "a.b.c",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch /tmp/x')", "open('x')", "slots.real()",
        "[x for x in slots]",
        "lambda: 1", "slots[0] == 1", "slots ** 2 == 4", "slots if fits else 1", "f'{slots}' == ''",
        "slots := 3", "", "slots <", "1 2", "slots + 1", "3", "slots is None", "(" * 300,
        "b'x' == policy", "None == policy", "1e1000 == x" + " " * 600,
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_unevaluated(text):
    with pytest.raises(ValueError, match=r"condition|compares|unknown"):
        Condition(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("slot == 2", "no column slot; did you mean slots"),
        ("policy == eplb", "no column eplb"),
        ("policy < 3", "cannot be decided"),
        ("none < 3", "cannot be decided"),
        ("slots / 0 < 1", "cannot be decided"),
        ("policy * 1000000000 == 'x'", "cannot be decided"),
    ],
)
def test_what_cannot_be_decided_is_told(text, says):
    with pytest.raises(ValueError, match=says):
        Condition(text).holds(ROW)
