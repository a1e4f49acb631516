"""Find policies by name: the built-in ones, and those other packages register."""

from __future__ import annotations

import difflib
import inspect
from importlib.metadata import entry_points
from typing import Any

from ..errors import PolicyError
from ..planning import EPLayout
from .base import Policy
from .eplb import EPLB
from .eplb_plus import EPLBPlus
from .fastermoe import FasterMoE
from .ideal import Ideal
from .llep import LLEP
from .lplb import LPLB
from .moonep import MoonEP
from .mosaic import Mosaic
from .none import NoBalancing
from .predictive import Predictive
from .ultraep import UltraEP

ENTRY_POINT_GROUP = "ultraep_sim.policies"
BUILT_IN: tuple[type[Policy], ...] = (
    NoBalancing,
    EPLB,
    EPLBPlus,
    LPLB,
    LLEP,
    MoonEP,
    FasterMoE,
    Predictive,
    UltraEP,
    Mosaic,
    Ideal,
)
ALIASES = {"best": Mosaic.name}
"""Other names `get_policy` answers to."""


def available_policies() -> dict[str, type[Policy]]:
    """Every policy by name: built-in first, then those registered by entry point.

    Returns
    -------
    dict of str to type

    Raises
    ------
    PolicyError
        If a registered package cannot be loaded, does not hold a `Policy`, or takes a built-in
        name.
    """
    found: dict[str, type[Policy]] = {cls.name: cls for cls in BUILT_IN}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        where = f"entry point {point.name} of {point.value}"
        try:
            loaded = point.load()
        except Exception as err:  # a third party's import may fail in any way
            raise PolicyError(
                f"cannot be loaded: {err}", place=where, remedy="mend or uninstall that package"
            ) from err
        if not (isinstance(loaded, type) and issubclass(loaded, Policy)):
            raise PolicyError("is not a Policy class", place=where, value=loaded)
        if point.name in found:
            raise PolicyError("takes a name that is in use", place=where, value=point.name)
        found[point.name] = loaded
    return found


def get_policy(name: str, layout: EPLayout, **options: Any) -> Policy:
    """Make a policy by name.

    Parameters
    ----------
    name : str
        See `available_policies`.
    layout : EPLayout
    **options
        The policy's own options.

    Raises
    ------
    PolicyError
        If the name or an option is unknown, or an option has an impossible value.
    """
    name = ALIASES.get(name, name)
    # No package may take a built-in name, so asking all that are installed, which takes
    # milliseconds, can wait until some other name is wanted.
    policies: dict[str, type[Policy]] = {cls.name: cls for cls in BUILT_IN}
    if name not in policies:
        policies = available_policies()
    if name not in policies:
        raise PolicyError(
            "unknown policy",
            place="policy",
            value=name,
            remedy=_suggest(name, [*policies, *ALIASES]),
        )
    cls = policies[name]
    known = _options(cls)
    for key in options:
        if key not in known:
            raise PolicyError(
                f"policy {name} has no such option", place=key, value=options[key],
                remedy=_suggest(key, known) if known else "it takes no options",
            )  # fmt: skip
    try:
        return cls(layout, **options)
    except TypeError as err:  # an option of the wrong type
        raise PolicyError(f"an option has the wrong type: {err}", place=name) from err


def takes_cost(policy: Policy) -> bool:
    """Say whether a policy weighs costs: it has an option ``cost`` for the engine's `CostModel`."""
    return "cost" in _options(type(policy))


def _options(cls: type[Policy]) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return (f"did you mean {close[0]}? " if close else "") + "known: " + ", ".join(known)
