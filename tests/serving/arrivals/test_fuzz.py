"""Damaged recordings: a clear error or what is there, never another exception.

What is there is read a second time by plain means: the csv module and strptime, or json.
"""

import csv
import io
import json
from datetime import datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.serving.arrivals import read_arrivals

AZURE = b"""TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:17:03.9799600,4808,10\r
2023-11-16 18:17:04.0319600,3180,8\r
2023-11-16 18:17:04.0319600,110,27\r
2023-11-16 18:59:59.9999999,7433,14\r
2023-11-16 19:00:00.0000000,34,12"""
MOONCAKE = b"""{"timestamp": 0, "input_length": 675, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 0, "input_length": 732, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 1030, "output_length": 794, "hash_ids": [0, 28, 29]}
{"timestamp": 3000, "input_length": 229, "output_length": 316, "hash_ids": [42]}
"""
PLAIN = [bytes([b]) for b in b'0123456789-:., \r\n\t{}[]"eE+\\N']
ODD = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc2\x85", b"NaN", b"-1", b"1e9", b"99999999"]
SOME = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def damaged(draw, whole):
    """Bytes of a recording after one to four small accidents."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        a, b = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        near = min(b, a + draw(st.integers(0, 3)))
        piece = draw(st.sampled_from(PLAIN + ODD))
        kind = draw(st.sampled_from(["put", "put", "put", "cut", "double", "drop", "swap"]))
        data = {
            "put": data[:a] + piece + data[near:],
            "cut": data[:b],
            "double": data[:b] + data[a:],
            "drop": data[:a] + data[b:],
            "swap": data[a:b] + data[:a] + data[b:],
        }[kind]
    return data


def plain_azure(data):
    """Times, lengths and outputs by the csv module."""
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    rows = [row for row in rows if (row["TIMESTAMP"] or "").strip()]
    times = []
    for row in rows:
        whole, _, rest = row["TIMESTAMP"].removesuffix("Z").removesuffix("+00:00").partition(".")
        since = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S") - datetime(1970, 1, 1)
        times.append(since // timedelta(seconds=1) + Fraction(f"0.{rest or 0}"))
    lengths = [[int(row[name]) for row in rows] for name in ("ContextTokens", "GeneratedTokens")]
    return [float(t - times[0]) for t in times], *lengths, None


def plain_mooncake(data):
    """Times, lengths, outputs and hashes by json."""
    rows = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    times = [(row["timestamp"] - rows[0]["timestamp"]) / 1000 for row in rows]
    lengths = [[row[name] for row in rows] for name in ("input_length", "output_length")]
    return times, *lengths, [i for row in rows for i in row.get("hash_ids", [])]


def read_or_refuse(file, data):
    """Return what is read, or None where it is refused as it should be."""
    file.write_bytes(data)
    try:
        return read_arrivals(file)
    except ArrivalsError as error:
        refusal = error
    assert "\n" not in str(refusal)
    assert str(refusal).startswith(str(file))
    assert refusal.remedy
    return None


def check(file, data, plain):
    """Read damaged bytes; tell whether they were refused."""
    found = read_or_refuse(file, data)
    if found is None:
        return True
    times, tokens, outputs, ids = plain(data)
    np.testing.assert_allclose(found.arrival_s, times, rtol=1e-12, atol=1e-9)
    assert found.tokens.tolist() == tokens
    assert found.output_tokens.tolist() == outputs
    if ids:
        assert found.blocks.ids.tolist() == ids
    assert (np.diff(found.arrival_s, prepend=0.0) >= 0).all()
    assert min(tokens + outputs) >= 1
    return False


@SOME
@given(damaged(AZURE))
def test_damaged_azure(tmp_path, data):
    check(tmp_path / "a", data, plain_azure)


@SOME
@given(damaged(MOONCAKE))
def test_damaged_mooncake(tmp_path, data):
    check(tmp_path / "a", data, plain_mooncake)


@SOME
@given(st.binary(max_size=200), st.sampled_from([b"", AZURE[:41], MOONCAKE[:-2], b"{"]))
def test_any_bytes(tmp_path, data, before):
    found = read_or_refuse(tmp_path / "a", before + data)
    assert found is None or len(found) > 0


@pytest.mark.parametrize(("whole", "plain"), [(AZURE, plain_azure), (MOONCAKE, plain_mooncake)])
def test_cut_anywhere(tmp_path, whole, plain):
    refused = [check(tmp_path / "a", whole[:size], plain) for size in range(len(whole))]
    # Nothing of a header, or of a row, is taken for a whole one: but at the end of a row (before
    # and after its \r and \n), and inside the last number of Azure's, which looks whole.
    kept = {size for size, bad in enumerate(refused) if not bad}
    ends = {i for i, byte in enumerate(whole) if byte == ord("\n")}
    if plain is plain_mooncake:
        assert kept == ends | {end + 1 for end in ends if end + 1 < len(whole)}
    else:
        inside = {size for size in kept if whole[:size].rpartition(b"\n")[2].count(b",") == 2}
        assert kept - inside == {end + 1 for end in ends} - {min(ends) + 1}
        assert all(whole[size - 1 : size] in b"0123456789\r" for size in inside)


@pytest.mark.parametrize(("whole", "plain"), [(AZURE, plain_azure), (MOONCAKE, plain_mooncake)])
def test_every_byte_flipped(tmp_path, whole, plain):
    """One bit at a time: all 8 x size files."""
    found = []
    for at in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            found.append(check(tmp_path / "a", bytes(data), plain))
    assert np.mean(found) > 0.6


def test_the_whole_files_are_read(tmp_path):
    assert not check(tmp_path / "a", AZURE, plain_azure)
    assert not check(tmp_path / "a", MOONCAKE, plain_mooncake)
