"""``ultraep-sim validate serving`` prints a table, or one JSON document."""

from __future__ import annotations

import json

from ultraep_sim.validate import serving


def test_the_suite_prints_every_row_or_one_document(invoke):
    answer = invoke("validate", "serving")
    assert answer.code == 0, answer
    for word in ("qwen3-235b", "glm-4.7-358b", "eplb_plus", "plain law", "slowest first"):
        assert word in answer.out, word
    answer = invoke("validate", "serving", "--json")
    data = json.loads(answer.out)
    assert data["suite"] == "serving"
    assert len(data["rows"]) == len(serving.simulated())
    assert {row["kind"] for row in data["rows"]} == {
        "fitted",
        "imbalance fitted",
        "setting chosen",
        "predicted",
    }
