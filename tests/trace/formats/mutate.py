"""Damaged copies of the samples: every one must be refused in one line or read."""

from __future__ import annotations

import io
import random
import re
import zipfile
from pathlib import Path

from tests.trace.formats.samples import Case, put
from ultraep_sim.errors import InputError
from ultraep_sim.trace.convert import as_trace, judge_and_repair
from ultraep_sim.trace.formats import ReadOptions, open_dump

NUMBERS = (b"-1", b"0", b"1", b"255", b"65536", b"2147483648", b"1000000000000", b"1e400", b"NaN")
WORDS = (b"null", b"[]", b"{}", b'""', b"true", b"[[[]]]", b'"x"', b"\xff\xfe", b"\x00" * 9)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes once to four times; an archive often inside a member, with good checksums."""
    if data[:2] == b"PK" and rng.random() < 0.7:
        return _inside(data, rng)
    for _ in range(rng.randint(1, 4)):
        data = rng.choice((_flip, _cut, _double, _number, _word, _integer))(data, rng)
    return data


def _inside(data: bytes, rng: random.Random) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(raw, "w") as out:
        names = source.namelist()
        hit = rng.choice(names)
        # The header of an array and the pickle of a tensor are where most can go wrong.
        hit = next((n for n in names if n.endswith("data.pkl")), hit) if rng.random() < 0.6 else hit
        for name in names:
            content = source.read(name)
            if name != hit:
                out.writestr(name, content)
            elif rng.random() < 0.9:
                limit = 128 if rng.random() < 0.5 else len(content)
                out.writestr(name, mutate(content[:limit], rng) + content[limit:])
    return raw.getvalue()


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:start] if rng.random() < 0.3 else data[:start] + data[stop:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:]


def _number(data: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"\d+", data[:4096]))
    if not found:
        return data
    hit = rng.choice(found)
    return data[: hit.start()] + rng.choice(NUMBERS) + data[hit.end() :]


def _word(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(WORDS) + data[at:]


def _integer(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    value = rng.choice((-1, 0, 1, 2**31 - 1, 2**40, 2**62, rng.getrandbits(63)))
    return data[:at] + value.to_bytes(8, "little", signed=True) + data[at + 8 :]


def survives(case: Case, folder: Path, rng: random.Random) -> str | None:
    """Read a damaged sample as a command does; return the error, None where it read.

    Raises whatever the reader raises beside an `InputError`: that is what is looked for.
    """
    files = dict(case.files)
    hit = rng.choice(list(files))
    files[hit] = mutate(files[hit], rng)
    path = put(case._replace(files=files), folder)
    try:
        as_trace(judge_and_repair(open_dump(path, ReadOptions(**case.options))))
    except InputError as error:
        text = str(error)
    else:
        return None
    assert "\n" not in text
    return text
