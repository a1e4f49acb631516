"""One look for every plot: safe for colour-blind readers and in print."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008), without the yellow, which vanishes on white paper.
BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#999999",
)
# Three of Tol's muted scheme, for scenarios with more contenders than that.
WINE, OLIVE, INDIGO = "#882255", "#999933", "#332288"
INK, MUTED, FAINT = "#222222", "#6E6E6E", "#D9D9D9"

# Contenders also differ by dash and marker, so that the plots survive a grey printer.
CYCLE = (VERMILION, GREEN, BLUE, PURPLE, ORANGE, SKY, WINE, OLIVE, INDIGO)
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-",
    (0, (5, 1)),
    "-",
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (6, 2, 2, 2)),
    (0, (5, 1)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1)),
)

_RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # The same run gives the same bytes: no random ids, no text as host fonts.
    "svg.hashsalt": "ultraep-sim",
    "hatch.linewidth": 0.6,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look inside a ``with`` block, on the backend that needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        matplotlib.rcParams.update(_RC)  # type: ignore[arg-type]  # its stub wants literal keys
        yield


def policy_look(
    labels: Sequence[str], names: dict[str, str]
) -> dict[str, tuple[str, str | tuple[int, tuple[int, ...]]]]:
    """Return colour and dash by label; ``none`` is grey and ``ideal`` is ink, always."""
    fixed = {"none": (MUTED, "-"), "ideal": (INK, (0, (2, 2)))}
    # A policy keeps its colour from run to run whatever else is in the scenario.
    usual = {"eplb": 0, "eplb_plus": 1, "ultraep": 2}
    look: dict[str, tuple[str, str | tuple[int, tuple[int, ...]]]] = {}
    taken: set[int] = set()
    for label in labels:
        name = names.get(label, label)
        if name in fixed:
            look[label] = fixed[name]  # type: ignore[assignment]  # the tuples are of that type
        elif name in usual and usual[name] not in taken:
            taken.add(usual[name])
            look[label] = (CYCLE[usual[name]], DASHES[usual[name]])
    free = [i for i in range(len(CYCLE)) if i not in taken and i not in usual.values()]
    rest = [label for label in labels if label not in look]
    for position, label in enumerate(rest):
        index = free[position % len(free)]
        look[label] = (CYCLE[index], DASHES[(index + position // len(free)) % len(DASHES)])
    return look


def stem_of(path: Path) -> Path:
    """Return a path without the suffix of a picture; other dots are part of its name."""
    return path.with_suffix("") if path.suffix in (".png", ".svg") else path


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg`` without dates in them, and close the figure."""
    import matplotlib.pyplot as plt

    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg")]
    figure.savefig(files[0], dpi=150, metadata={"Software": None})
    figure.savefig(files[1], metadata={"Date": None})
    plt.close(figure)
    return files


def heading(figure: Figure, title: str, source: str) -> float:
    """Put a title with grey lines of source under it, and return where the axes may begin.

    Parameters
    ----------
    figure : Figure
    title, source : str
        The source is wrapped to the width of the figure, so that no provenance is cut off.

    Returns
    -------
    float
        Top for the axes, as a fraction of the figure's height.
    """
    width, height = (float(size) for size in figure.get_size_inches())
    lines = textwrap.wrap(source, int(16.3 * width))
    figure.text(
        0.012, 1 - 0.10 / height, title, ha="left", va="top", fontsize=11.5, fontweight="bold"
    )
    figure.text(
        0.012,
        1 - 0.36 / height,
        "\n".join(lines),
        ha="left",
        va="top",
        fontsize=8,
        color=MUTED,
        linespacing=1.3,
    )
    return 1 - (0.52 + 0.152 * len(lines)) / height
