"""docs/traces.md names every format, disease and repair there is."""

import re
from pathlib import Path

import ultraep_sim.trace.diagnose as diagnose
from ultraep_sim.trace.formats import FORMATS, WRITABLE, registry

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "traces.md").read_text()
FORMATS_DIR = Path(registry.__file__).parent
DIAGNOSE_DIR = Path(diagnose.__file__).parent

NAME = re.compile(r"`([a-z][a-z0-9-]+)`")


def rows(heading):
    """First cells of the table below a heading."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    lines = [line for line in lines if not line.startswith("| `--format`")]  # the head
    return [line.split(" | ") for line in lines]


def test_every_format_is_there_with_its_file():
    table = rows("Formats")
    named = {name for row in table for name in NAME.findall(row[0])}
    assert named == {found.name for found in FORMATS}
    writable = {NAME.findall(row[0])[0] for row in table if "--to" in row[0]}
    assert writable == set(WRITABLE)
    for row in table:
        assert (FORMATS_DIR / re.findall(r"`(\w+\.py)`", row[-1])[0]).is_file()


def test_every_disease_and_repair_is_there():
    table = rows("Checks")
    source = "".join(path.read_text() for path in DIAGNOSE_DIR.glob("*.py"))
    names = {name for row in table for name in re.findall(r"`([a-z-]+)`", row[0])}
    for name in names:
        assert f'"{name}"' in source, name
    made = set(re.findall(r'(?:Finding\(|\()\s*"([a-z]+(?:-[a-z]+)+)",\s', source))
    assert made - set(diagnose.REPAIRS) <= names
    repairs = {name for row in table for name in re.findall(r"`([a-z-]+)`", row[-1])}
    assert repairs & set(diagnose.REPAIRS) == set(diagnose.REPAIRS)
