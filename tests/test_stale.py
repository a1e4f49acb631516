"""A kernel that was compiled with an older source of another file is never used again."""

import os
import subprocess
import sys

from ultraep_sim._stale import drop_stale_kernels


def run(folder):
    found = subprocess.run(
        [sys.executable, "-c", "import pack.outer as o; print(o.outer(1))"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(found.stdout)


def test_an_edit_in_another_file_reaches_its_callers(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("")
    inner = "from numba import njit\n@njit(cache=True)\ndef inner(x):\n    return x + {}\n"
    (pack / "inner.py").write_text(inner.format(1))
    (pack / "outer.py").write_text(
        "from numba import njit\nfrom .inner import inner\n"
        "@njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
    )
    assert run(tmp_path) == 2
    assert drop_stale_kernels(pack) == 0  # nothing changed: the cache stays
    (pack / "inner.py").write_text(inner.format(10))
    later = (pack / "inner.py").stat().st_mtime + 10
    os.utime(pack / "inner.py", (later, later))
    assert run(tmp_path) == 2, "numba now sees such edits by itself; _stale.py can go"
    assert drop_stale_kernels(pack) >= 1
    assert run(tmp_path) == 11
