import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.serving.arrivals import Blocks, read_arrivals


def row(timestamp=0, tokens=600, output=5, ids=(0, 1), **more):
    found = {"timestamp": timestamp, "input_length": tokens, "output_length": output}
    return found | ({} if ids is None else {"hash_ids": list(ids)}) | more


def read(tmp_path, *rows):
    file = tmp_path / "recorded.txt"
    lines = (r if isinstance(r, str) else json.dumps(r) for r in rows)
    file.write_text("\n".join(lines), encoding="utf-8")
    return read_arrivals(file)


def refusal(tmp_path, *rows):
    with pytest.raises(ArrivalsError) as caught:
        read(tmp_path, *rows)
    text = str(caught.value)
    assert "\n" not in text
    assert "; " in text, "a remedy"
    return text.removeprefix(f"{tmp_path / 'recorded.txt'}: ")


def test_rows_become_arrays(tmp_path):
    found = read(tmp_path, row(5), row(5, 512, 7, [3]), row(3005.5, 1025, 1, [0, 4, 5]))
    assert found.arrival_s.tolist() == [0.0, 0.0, 3.0005]
    assert found.tokens.tolist() == [600, 512, 1025]
    assert found.output_tokens.tolist() == [5, 7, 1]
    assert found.blocks.ids.tolist() == [0, 1, 3, 0, 4, 5]
    assert found.blocks.starts.tolist() == [0, 2, 3, 6]
    assert found.label == "Mooncake recording recorded.txt"


def test_hashes_are_optional_for_all_rows_together(tmp_path):
    assert read(tmp_path, row(ids=None), row(ids=None)).blocks is None
    for rows in ((row(), row(ids=None)), (row(ids=None), row())):
        assert refusal(tmp_path, *rows).startswith("line 2, hash_ids: there in some rows and not")


def test_equal_rows_are_two_requests(tmp_path):
    assert len(read(tmp_path, row(), row())) == 2


def test_other_keys_are_ignored(tmp_path):
    assert len(read(tmp_path, row(user="x", session={"a": [1]}))) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(999), "timestamp: earlier than the row above (got 999)"),
        (row("1000"), "timestamp: not a time (got '1000')"),
        (row(None), "timestamp: not a time"),
        (row(True), "timestamp: not a time"),
        (row(2e15), "timestamp: not a time"),
        (row(10**400), "timestamp: not a time"),
        ('{"timestamp": 1e999, "input_length": 1, "output_length": 1}', "timestamp: not a time"),
        (row(1000, 0, ids=[]), "input_length: a length is from 1 to 4,194,304 tokens (got 0)"),
        (row(1000, -3), "input_length: a length is from 1"),
        (row(1000, 1 << 23), "input_length: a length is from 1"),
        (row(1000, 600.0), "input_length: not a whole number (got 600.0)"),
        (row(1000, "600"), "input_length: not a whole number"),
        (row(1000, True), "input_length: not a whole number"),
        (row(1000, None), "input_length: not a whole number"),
        (row(1000, [600]), "input_length: not a whole number"),
        (row(1000, output=0), "output_length: a length is from 1"),
        (row(1000, ids=[1]), "hash_ids: not one hash for every 512 tokens begun, of 600 (got 1)"),
        (row(1000, ids=[1, 2, 3]), "hash_ids: not one hash for every 512 tokens begun"),
        (row(1000, ids=[1, -2]), "hash_ids: not a list of hashes"),
        (row(1000, ids=[1, 2.0]), "hash_ids: not a list of hashes"),
        (row(1000, ids=[1, True]), "hash_ids: not a list of hashes"),
        (row(1000, ids=[1, 1 << 63]), "hash_ids: not a list of hashes"),
        (row(1000, ids=None, hash_ids="ab"), "hash_ids: not a list of hashes"),
        (row(1000, ids=None, hash_ids=None), "hash_ids: not a list of hashes"),
    ],
)
def test_a_bad_value_is_named(tmp_path, bad, message):
    assert refusal(tmp_path, row(1000), bad).startswith(f"line 2, {message}")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"timestamp": 1, "input_len', "not JSON: Unterminated string"),
        ('{"timestamp": NaN, "input_length": 1, "output_length": 1}', "not JSON: NaN is no number"),
        ('{"timestamp": -Infinity}', "not JSON: -Infinity is no number"),
        ('{"timestamp": 1, "timestamp": 2}', "not JSON: a key is there twice"),
        ('{"timestamp": 1} {"timestamp": 2}', "not JSON: Extra data"),
        ('{"timestamp": ' + "[" * 200_000, "not JSON"),
        ('{"timestamp": ' + "9" * 5000 + "}", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("TIMESTAMP,ContextTokens", "not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, bad, message):
    assert refusal(tmp_path, row(), bad).startswith(f"line 2: {message}")


@pytest.mark.parametrize("key", ["timestamp", "input_length", "output_length"])
def test_a_missing_key_is_named(tmp_path, key):
    less = {k: v for k, v in row().items() if k != key}
    assert refusal(tmp_path, row(), less).startswith(f"line 2, {key}: missing")
    assert refusal(tmp_path, less).startswith(f"line 1, {key}: missing")


def slow_prefixes(prompts):
    """What `Blocks.seen_before` says, one request after the other."""
    seen, found = set(), []
    for ids in prompts:
        run = 0
        while run < len(ids) and ids[run] in seen:
            run += 1
        found.append(run)
        seen.update(ids)
    return found


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=12))
def test_prefixes_are_those_found_one_by_one(prompts):
    starts = np.cumsum([0, *(len(ids) for ids in prompts)])
    blocks = Blocks(np.array([i for ids in prompts for i in ids], np.int64), starts)
    assert blocks.seen_before().tolist() == slow_prefixes(prompts)
