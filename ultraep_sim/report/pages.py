"""Pages whose numbers are computed: what stands between markers is written anew."""

from __future__ import annotations


def replaced(text: str, name: str, new: str) -> str:
    """Return a page with what stands between the markers of ``name`` replaced.

    Raises
    ------
    SystemExit
        The page has no such markers; only scripts that write pages call this.
    """
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"the markers {begin} and {end} are not there")
    return f"{head}{begin}\n\n{new}\n\n{end}{tail}"
