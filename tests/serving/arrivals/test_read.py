"""Files that are none of the forms, or no files at all."""

import gzip
import os
import pickle

import pytest

from ultraep_sim.errors import ArrivalsError
from ultraep_sim.serving.arrivals import lines, read_arrivals

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = b"2023-11-16 23:59:59.9799600,4808,10\n"


class Trap:
    """Tells whether anything unpickled it."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"\n \n\r\n", "line 1: the file is empty"),
        (b"a,b,c\n1,2,3\n", "line 1: no known form of recorded arrivals (got 'a,b,c')"),
        (b'[{"timestamp": 0}]', "line 1: no known form"),
        (b"PAR1....PAR1", "line 1: no known form"),
        (b"\xff\xfeT\x00I\x00", "line 1: not UTF-8 text"),
        (gzip.compress(HEADER + ROW, mtime=0), "line 1: not UTF-8 text"),
        (pickle.dumps(Trap(), protocol=5), "line 1: not UTF-8 text"),
        (pickle.dumps(Trap(), protocol=0), "line 1: no known form"),
        (HEADER + ROW + b"caf\xe9,1,1\n", r"line 3: not UTF-8 text (got b'\xe9,1,1\n')"),
        (HEADER + b"\n" + ROW, "line 2: a blank line between others"),
        (HEADER + ROW + b"x" * (1 << 20) + b",1,1\n", "line 3: the line is too long"),
        (b"{" * (1 << 21), "line 1: the line is too long"),
        (HEADER.replace(b"\n", b"\r") + ROW, "line 1, GeneratedTokens: a column is missing"),
        (b"\x00" * 100, "line 1: no known form"),
    ],
)
def test_what_is_no_recording_is_refused_by_line(tmp_path, data, message):
    file = tmp_path / "azure.csv"
    file.write_bytes(data)
    with pytest.raises(ArrivalsError) as caught:
        read_arrivals(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert caught.value.remedy
    assert not Trap.sprung


def test_content_decides_and_not_the_name(tmp_path):
    file = tmp_path / "mooncake.jsonl"
    file.write_bytes(HEADER + ROW)
    assert read_arrivals(file).label.startswith("Azure")
    file.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}')
    assert read_arrivals(str(file)).label.startswith("Mooncake")


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, problem in (
        (tmp_path / "absent", "no such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (loop, "no such file"),
        (tmp_path / ("n" * 5000), "cannot be read: File name too long"),
        ("nul\0byte", "no such file"),
    ):
        with pytest.raises(ArrivalsError, match=problem):
            read_arrivals(path)


def test_files_and_recordings_too_large_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "long.csv"
    rows = (b"2023-11-16 23:59:59.%d,4808,10\n" % i for i in range(1, 6))
    file.write_bytes(HEADER + b"".join(rows))
    assert len(read_arrivals(file)) == 5
    monkeypatch.setattr(lines, "MAX_REQUESTS", 4)
    with pytest.raises(ArrivalsError, match=r"line 6: more than 4 requests"):
        read_arrivals(file)
    monkeypatch.setattr(lines, "MAX_BYTES", 100)
    with pytest.raises(ArrivalsError, match=r"larger than the .* read"):
        read_arrivals(file)


def test_a_sparse_terabyte_is_refused_unread(tmp_path):
    file = tmp_path / "huge.csv"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ArrivalsError, match="larger than the 1024 MiB"):
        read_arrivals(file)
