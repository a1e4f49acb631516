"""The published recordings themselves: what is in them by an independent count."""

from pathlib import Path

import numpy as np
import pytest

from tests.serving.scenes import replayed
from ultraep_sim.serving.arrivals import read_arrivals
from ultraep_sim.serving.requests import make_requests

ARRIVALS = Path(__file__).resolve().parents[4] / "shared" / "data" / "arrivals"

pytestmark = pytest.mark.shared_data

CODE, CONV = "AzureLLMInferenceTrace_code.csv", "AzureLLMInferenceTrace_conv.csv"
MOONCAKE = "mooncake_conversation.jsonl"


def path_of(name):
    path = ARRIVALS / name
    if not path.is_file():
        pytest.skip(f"shared/data/arrivals/{name} is not here")
    return path


@pytest.mark.parametrize(
    ("name", "count", "span_s", "tokens", "output", "longest"),
    [
        (CODE, 8819, 3435.948056, 2047.848282, 27.882526, 7437),
        (CONV, 19366, 3501.721937, 1154.697408, 211.125942, 14050),
        (MOONCAKE, 12031, 3536.999, 12035.061342, 342.618901, 126195),
    ],
)
def test_counts_means_and_span(name, count, span_s, tokens, output, longest):
    found = read_arrivals(path_of(name))
    assert len(found) == count
    assert found.span_s == pytest.approx(span_s, abs=1e-9)
    assert found.tokens.mean() == pytest.approx(tokens, rel=1e-8)
    assert found.output_tokens.mean() == pytest.approx(output, rel=1e-7)
    assert found.tokens.max() == longest
    assert found.arrival_s[0] == 0.0
    assert (np.diff(found.arrival_s) >= 0).all()


def test_conversations_share_prefixes():
    found = read_arrivals(path_of(MOONCAKE))
    assert found.blocks.ids.size == 288_500
    requests = make_requests(replayed(path_of(MOONCAKE), duration_s=4e3, prefix={"recorded": True}))
    assert len(requests) == len(found)
    share = requests.cached.sum() / requests.tokens.sum()
    assert share == pytest.approx(0.37362, abs=1e-4)
    # One system prompt of one block opens nearly every conversation.
    assert (requests.cached > 0).mean() > 0.9


def test_a_recording_at_another_rate():
    scenario = replayed(path_of(CODE), duration_s=100.0)
    found = make_requests(scenario, rate_per_s=40.0)
    assert len(found) == pytest.approx(4000, rel=0.3)
    assert np.array_equal(found.tokens, read_arrivals(path_of(CODE)).tokens[: len(found)])
