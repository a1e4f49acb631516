"""Where the kernel tables are, and how one is read. The package's own code is never imported."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ultraep_sim.errors import CalibrationError

DISTRIBUTION, VERSION = "aiconfigurator-core", "0.12.0"
#: Environment variable that names a directory to read instead of the installed package.
DIRECTORY = "ULTRAEP_SIM_TABLES"
REMEDY = "pip install 'ultraep-sim[silicon]', or name the unzipped tables with --tables DIR"
#: How this project calls a GPU -> how the tables call its system.
SYSTEMS = {
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
}
_INSIDE = Path("aiconfigurator_core") / "systems" / "data"
_MAX_BYTES = 64 * 2**20  # the largest table has 2 MB


@dataclass(frozen=True)
class Table:
    """One Parquet file of the package.

    Parameters
    ----------
    columns : dict of str to ndarray [N]
        The columns that were asked for.
    source : (str, str)
        Path inside the tables and SHA-256 of the file.
    """

    columns: dict[str, NDArray[Any]]
    source: tuple[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def where(self, **wanted: Any) -> Table:
        """Return the rows whose columns have these values."""
        mask = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            mask &= self.columns[name] == value
        return self.mask(mask)

    def mask(self, mask: NDArray[np.bool_]) -> Table:
        """Return the rows of a mask."""
        return Table({name: c[mask] for name, c in self.columns.items()}, self.source)


def find_tables(directory: str | Path | None = None) -> Path:
    """Return the folder that holds one folder a system.

    Parameters
    ----------
    directory : str or Path, optional
        The unzipped wheel, or the folder of the systems itself. By default what the environment
        variable `DIRECTORY` names, else the installed package.

    Raises
    ------
    CalibrationError
        There are none, with what to install.
    """
    given = directory if directory is not None else os.environ.get(DIRECTORY)
    if given:
        for folder in (Path(given) / _INSIDE, Path(given) / "systems" / "data", Path(given)):
            if any((folder / name).is_dir() for name in SYSTEMS.values()):
                return folder
        raise CalibrationError(
            "no kernel tables in this directory", file=given, remedy=f"expected {_INSIDE}/h200_sxm"
        )
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise CalibrationError(f"{DISTRIBUTION} is not installed", remedy=REMEDY) from None
    folder = Path(str(found.locate_file(_INSIDE)))
    if not folder.is_dir():
        raise CalibrationError(
            f"{DISTRIBUTION} {found.version} has no tables", file=folder, remedy=REMEDY
        )
    return folder


def table_path(root: Path, system: str, kind: str, framework: str, name: str) -> Path:
    """Return the newest version of a table.

    Parameters
    ----------
    root : Path
        From `find_tables`.
    system : str
        One of `SYSTEMS`.
    kind, framework, name : str
        Folders and stem: ``("moe", "trtllm", "moe_perf")``.

    Raises
    ------
    CalibrationError
        The system is unknown, or has no such table.
    """
    if system not in SYSTEMS:
        raise CalibrationError(
            "unknown system", value=system, remedy=f"one of {', '.join(SYSTEMS)}"
        )
    folder = root / SYSTEMS[system] / kind / framework
    found = [p for p in folder.glob(f"*/{name}.parquet") if p.is_file()]
    if not found:
        have = [one for one in SYSTEMS if has_table(root, one, kind, framework, name)]
        remedy = f"here it is there for {', '.join(have) or 'no system'}; name the whole tables"
        raise CalibrationError("no such table", file=folder, value=name, remedy=remedy)
    # A newer file may hold only a few late rows, so the largest of all versions is meant.
    return max(found, key=lambda p: (p.stat().st_size, str(p)))


def has_table(root: Path, system: str, kind: str, framework: str, name: str) -> bool:
    """Tell whether a system has a table, named as in `table_path`: not every system has each."""
    return any((root / SYSTEMS[system] / kind / framework).glob(f"*/{name}.parquet"))


def read_table(root: Path, path: Path, columns: Sequence[str]) -> Table:
    """Read some columns of one table.

    Raises
    ------
    CalibrationError
        It is no Parquet file, or lacks a column.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise CalibrationError("too large for a kernel table", file=path, remedy="check the file")
    return _read(root, path, tuple(columns))


@lru_cache(maxsize=32)
def _read(root: Path, path: Path, columns: tuple[str, ...]) -> Table:
    try:
        table = pq.read_table(path, columns=list(columns), partitioning=None)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise CalibrationError(
            f"not a readable Parquet file: {error}", file=path, remedy=REMEDY
        ) from None
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise CalibrationError(
            "a column is missing",
            file=path,
            value=missing[0],
            remedy=f"the tables of {DISTRIBUTION} {VERSION} have it",
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    arrays = {name: table.column(name).to_numpy(zero_copy_only=False) for name in columns}
    return Table(arrays, (path.relative_to(root).as_posix(), digest))
