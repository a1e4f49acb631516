"""Build the API reference from docstrings: ``python docs/build_api.py [FOLDER]``.

Public is what the ``__all__`` of a package names; nothing else is shown. Whatever pdoc warns of
stops the build, and so does what it would pass over in silence: a public name without a docstring,
a parameter that is documented and not there, or a name in backquotes that leads nowhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pdoc
import pdoc.render

#: Packages with an ``__all__``, and the one of all errors.
PUBLIC = (
    "ultraep_sim",
    *(
        f"ultraep_sim.{part}"
        for part in (
            "errors", "model", "planning", "policies", "report", "scenario", "sweep", "trace",
        )
    ),
)  # fmt: skip
_PARAMETERS = re.compile(r"^Parameters\n-{10}\n(.*?)(?=^\w[\w ]*\n-{3,}\n|\Z)", re.M | re.S)
_NAMES = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$", re.M)
_DOTTED = re.compile(r"`{1,2}(ultraep_sim(?:\.\w+)+)`{1,2}")


def build(folder: Path, modules: Sequence[str] = PUBLIC) -> None:
    """Write the pages.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    modules : sequence of str

    Raises
    ------
    ValueError
        Something is wrong; the message has a line for all that is.
    """
    found = list(problems(modules))
    for module in modules:
        _name_types(module)
    pdoc.render.configure(docformat="numpy", show_source=False, search=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*modules, output_directory=folder)
    found += [f"pdoc warns: {one.message}" for one in caught]
    if found:
        raise ValueError("\n".join(found))


def _name_types(module: str) -> None:
    """Resolve the annotations of named tuples, which pdoc looks up in a module of their own."""
    for _, thing in public(module):
        if inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields"):
            thing.__new__.__annotations__ = get_type_hints(thing)


def problems(modules: Sequence[str] = PUBLIC) -> Iterator[str]:
    """Say what is wrong with the docstrings of public names, a line each."""
    for module in modules:
        for name, thing in public(module):
            text = inspect.getdoc(thing) or ""
            if not text and not _is_data(thing):
                yield f"{name} has no docstring"
            for missing in _strangers(thing, text):
                yield f"{name} documents a parameter {missing} that it does not have"
            for target in _DOTTED.findall(text):
                if not _leads_somewhere(target):
                    yield f"{name} refers to {target}, which is not there"


def public(module: str) -> Iterator[tuple[str, Any]]:
    """Yield the public names of a module, and the public members of its classes."""
    loaded = importlib.import_module(module)
    yield module, loaded
    # getattr: packages load some names on first use, and pdoc sees those that are loaded.
    for name in getattr(loaded, "__all__", None) or _own(loaded):
        thing = getattr(loaded, name)
        yield f"{module}.{name}", thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (
                    inspect.isfunction(value) or isinstance(value, property | classmethod)
                ):
                    inner = value.__func__ if isinstance(value, classmethod) else value
                    yield f"{module}.{name}.{member}", inner


def _own(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]


def _is_data(thing: Any) -> bool:
    return not (inspect.isclass(thing) or callable(thing) or isinstance(thing, property))


def _strangers(thing: Any, text: str) -> list[str]:
    """Return documented parameters that the signature lacks."""
    section = _PARAMETERS.search(text)
    if section is None or not callable(thing):
        return []
    try:
        known = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return []
    documented = [
        name.lstrip("*") for group in _NAMES.findall(section[1]) for name in group.split(", ")
    ]
    return [name for name in documented if name not in known]


def _leads_somewhere(target: str) -> bool:
    parts = target.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = getattr(thing, "__annotations__", {})
            if not hasattr(thing, part) and part not in fields:
                return False
            thing = getattr(thing, part, None)
        return True
    return False


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")
    try:
        build(target)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {target / 'index.html'}")
