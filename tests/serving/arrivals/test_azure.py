import pytest

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.serving.arrivals import read_arrivals

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROWS = (
    "2023-11-16 23:59:59.9799600,4808,10",
    "2023-11-16 23:59:59.9799600,3180,8",
    "2023-11-17 00:00:00.0000001,110,27",
)


def read(tmp_path, *lines, end="\n"):
    file = tmp_path / "recorded.txt"
    file.write_bytes((end.join(lines) + end).encode())
    return read_arrivals(file)


def refusal(tmp_path, *lines):
    with pytest.raises(ArrivalsError) as caught:
        read(tmp_path, *lines)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(tmp_path / "recorded.txt"))
    assert "; " in text, "a remedy"
    return text.removeprefix(f"{tmp_path / 'recorded.txt'}: ")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_become_arrays(tmp_path, end):
    found = read(tmp_path, HEADER, *ROWS, end=end)
    # Ticks of 100 ns, over midnight, exactly.
    assert found.arrival_s.tolist() == [0.0, 0.0, 0.0200401]
    assert found.tokens.tolist() == [4808, 3180, 110]
    assert found.output_tokens.tolist() == [10, 8, 27]
    assert found.blocks is None
    assert (len(found), found.span_s) == (3, 0.0200401)
    assert found.label == "Azure LLM inference recording recorded.txt"


def test_a_last_line_needs_no_end_and_blank_lines_may_follow(tmp_path):
    file = tmp_path / "a"
    whole = "\r\n".join((HEADER, *ROWS))
    for text in (whole, whole + "\n\n \r\n", "\ufeff" + whole):
        file.write_bytes(text.encode())
        assert read_arrivals(file).tokens.tolist() == [4808, 3180, 110]


def test_columns_in_another_order_beside_others(tmp_path):
    found = read(
        tmp_path, "GeneratedTokens,who,TIMESTAMP,ContextTokens", "7,x,2024-05-10 00:00:00,9"
    )
    assert (found.tokens.tolist(), found.output_tokens.tolist()) == ([9], [7])


@pytest.mark.parametrize("fraction", ["", ".5", ".123456789", ".009930+00:00", "Z"])
def test_other_clocks_in_utc(tmp_path, fraction):
    found = read(tmp_path, HEADER, "2024-05-10 00:00:00,1,1", f"2024-05-10 00:00:01{fraction},1,1")
    digits = "".join(c for c in fraction.split("+")[0] if c in ".0123456789")
    assert found.span_s == float("1" + digits)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2023-11-16 24:00:00.0,1,1", "TIMESTAMP: not a time: hour must be in 0..23"),
        ("2023-13-16 00:00:00.0,1,1", "TIMESTAMP: not a time: month must be in 1..12"),
        ("2023-02-29 00:00:00.0,1,1", "TIMESTAMP: not a time: day"),
        ("0000-01-01 00:00:00.0,1,1", "TIMESTAMP: not a time from 1970 to 2199"),
        ("9999-12-31 23:59:59.9,1,1", "TIMESTAMP: not a time from 1970 to 2199"),
        ("2023-11-17T00:00:00.1,1,1", "TIMESTAMP: not a time (got"),
        ("2023-11-17 00:00:00+02:00,1,1", "TIMESTAMP: not a time (got"),
        ("2023-11-17 00:00:00.,1,1", "TIMESTAMP: not a time (got"),
        ("2023-11-17 00:00:00.\u0661,1,1", "TIMESTAMP: not a time (got"),
        ("\ufeff2023-11-17 00:00:00.1,1,1", "TIMESTAMP: not a time (got"),
        ("NaN,1,1", "TIMESTAMP: not a time (got 'NaN')"),
        ("1700179200,1,1", "TIMESTAMP: not a time (got"),
        (",1,1", "TIMESTAMP: not a time (got '')"),
        ("2023-11-18 00:00:00.0,0,1", "ContextTokens: a length is from 1 to 4,194,304 tokens"),
        ("2023-11-18 00:00:00.0,-5,1", "ContextTokens: a length is from 1 to"),
        ("2023-11-18 00:00:00.0,4194305,1", "ContextTokens: a length is from 1 to"),
        ("2023-11-18 00:00:00.0,5,0", "GeneratedTokens: a length is from 1 to"),
        ("2023-11-18 00:00:00.0,nan,1", "ContextTokens: not a whole number (got 'nan')"),
        ("2023-11-18 00:00:00.0,1e3,1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0,5.0,1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0, 5,1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0,1_0,1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0,١٢,1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0," + "9" * 5000 + ",1", "ContextTokens: not a whole number"),
        ("2023-11-18 00:00:00.0,5,", "GeneratedTokens: not a whole number (got '')"),
        ("2023-11-18 00:00:00.0,5", "not the 3 cells of the header"),
        ("2023-11-18 00:0", "not the 3 cells of the header"),
        ("2023-11-18 00:00:00.0,5,1,1", "not the 3 cells of the header"),
        ("2023-11-16 23:59:59.9799599,5,1", "TIMESTAMP: earlier than the row above"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    found = refusal(tmp_path, HEADER, *ROWS, row)
    assert found.startswith((f"line 5, {message}", f"line 5: {message}"))


def test_equal_times_are_legal_and_equal_rows_are_not(tmp_path):
    assert len(read(tmp_path, HEADER, *ROWS)) == 3
    text = refusal(tmp_path, HEADER, *ROWS[:2], ROWS[0], ROWS[2])
    assert text.startswith("line 4: the same row twice (got '2023-11-16 23:59:59.9799600,4808,10')")
    # Two recordings one after the other.
    assert "line 5, TIMESTAMP: earlier" in refusal(tmp_path, HEADER, *ROWS, *ROWS)
    assert "sort the rows by TIMESTAMP" in refusal(tmp_path, HEADER, *ROWS[::-1])
    # The same lengths at another time are another request.
    assert len(read(tmp_path, HEADER, ROWS[0], "2023-11-17 00:00:00.0,4808,10")) == 2


@pytest.mark.parametrize("column", HEADER.split(","))
def test_a_missing_or_doubled_column_is_named(tmp_path, column):
    less = ",".join(name for name in HEADER.split(",") if name != column)
    assert refusal(tmp_path, less, "1,1").startswith(f"line 1, {column}: a column is missing")
    more = f"{HEADER},{column}"
    assert refusal(tmp_path, more, "1,1,1,1").startswith(
        f"line 1, {column}: a column is there twice"
    )


def test_a_header_alone_is_no_recording(tmp_path):
    assert refusal(tmp_path, HEADER).startswith("line 1: no row below the header")


def test_times_far_apart_stay_exact(tmp_path):
    found = read(tmp_path, HEADER, "1970-01-01 00:00:00,1,1", "1970-01-01 00:00:00.000000001,1,1")
    assert found.arrival_s[1] == 1e-9
    found = read(tmp_path, HEADER, "1970-01-01 00:00:00,1,1", "2199-12-31 23:59:59.5,1,1")
    assert found.arrival_s[1] == 7_258_118_399.5
    late = ("2199-12-31 23:59:59.9999998,1,1", "2199-12-31 23:59:59.9999999,1,1")
    assert read(tmp_path, HEADER, *late).arrival_s[1] == 1e-7
