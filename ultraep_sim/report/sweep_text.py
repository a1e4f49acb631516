"""The findings of a sweep as sentences; the last says what to use."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence

from .plot_sweep import NO_FIT
from .sweep_findings import Advice, Choice, Regret, Winner, advice, gain, regrets, winners
from .sweep_table import Band, SweepTable, band, shown, told

_TIMES = ("iteration_ms", "layer_time_ms")
#: Settings that change how much a step or a layer of it does on one GPU.
_WORK = re.compile(r"ranks|parallel|stages|micro_?batch|tokens|^ep$|ep_?size", re.IGNORECASE)


def percent(value: float) -> str:
    """Return a share with two digits that count, as ``0.056 %``; ``12 %`` from ten on."""
    size = abs(value)
    return f"{value:.0f} %" if size >= 9.5 or size == 0 else f"{value:.2g} %"


def spread(found: Band) -> str:
    """Return the band of a share in brackets, or nothing where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f" [{percent(found.low).removesuffix(' %')} to {percent(found.high)}]"


def name_of(table: SweepTable, choice: Choice, axes: Sequence[str]) -> str:
    """Return a choice in words, as ``ultraep with slots 2``."""
    setting = told(axes, choice.setting)
    if choice.policy is None:
        return setting
    return f"{choice.policy} with {setting}" if setting else choice.policy


def findings(table: SweepTable) -> list[str]:
    """Return all sentences but the advice."""
    found = winners(table)
    texts = [_what(table), *_winners(table, found), _worth(table, found), *_wrong(table)]
    texts += [*_settings(table), _memory(table, found), _missing(table, found)]
    return [text for text in (*texts, _samples(table), _synthetic(table)) if text]


def _what(table: SweepTable) -> str:
    aim = table.aim
    axes = []
    if aim.settings:
        axes.append(f"settings one can choose: {', '.join(aim.settings)}")
    if aim.conditions:
        axes.append(f"conditions one cannot: {', '.join(aim.conditions)}")
    listed = f"; {'; '.join(axes)}" if axes else ""
    return (
        f"{len(table.policies)} {_s('policy', len(table.policies))} at {len(table.places)} "
        f"{_s('point', len(table.places))}, judged by {aim.metric} "
        f"({aim.metrics[aim.metric]} is better){listed}."
    )


def _s(noun: str, count: int) -> str:
    if count == 1:
        return noun
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def _winners(table: SweepTable, found: Sequence[Winner]) -> list[str]:
    won = [one for one in found if one.policy is not None]
    if not won:
        return ["No policy has a value at any point: nobody wins."]
    counts = Counter(str(one.policy) for one in won)
    parts = [
        f"{_called(table, name)} wins at {count} of {len(found)}"
        for name, count in counts.most_common()
    ]
    text = f"{'; '.join(parts)} {_s('point', len(found))}"
    ties = [one for one in won if one.tie]
    if ties:
        whom = Counter(name for one in ties for name in one.tied)
        among = ", ".join(f"{name} {count}" for name, count in whom.most_common())
        text += f". {len(ties)} of these {'is a tie' if len(ties) == 1 else 'are ties'} with the "
        text += f"runner-up or others ({among}): the difference is not told apart from 0"
    texts = [text + "."]
    margins = [(one.margin.center, one) for one in won if one.margin is not None]
    if margins:
        least, most = min(margins, key=lambda m: m[0]), max(margins, key=lambda m: m[0])
        middle = percent(statistics.median(m for m, _ in margins))
        if len(margins) == 1:
            texts.append(f"Its margin over the runner-up is {_margin(table, most[1])}.")
        else:
            texts.append(
                f"The winner's margin over the runner-up: median {middle}; least "
                f"{_margin(table, least[1])}; most {_margin(table, most[1])}."
            )
    elif len(table.policies) == 1:
        texts.append("There is one policy only, so there is no runner-up.")
    return texts


def _called(table: SweepTable, name: str) -> str:
    return f"{name} (no balancing)" if name == table.aim.spec.baseline else name


def _margin(table: SweepTable, one: Winner) -> str:
    at = told(table.axes, one.place)
    where = f" at {at}" if at else ""
    size = "" if one.margin is None else f"{percent(one.margin.center)}{spread(one.margin)} "
    return f"{size}({one.policy} over {one.runner_up}{where})"


def _worth(table: SweepTable, found: Sequence[Winner]) -> str:
    """Say what the winner is worth over doing nothing, and what is left to the bound."""
    sign, metric = table.aim.sign(table.aim.metric), table.aim.metric
    parts = []
    for other, verb in ((table.aim.spec.baseline, "better than"), *_bounds(table)):
        gains = []
        for one in found:
            cell = table.at(one.place).get(other)
            if one.policy is None or cell is None or one.policy == other:
                continue
            mine = table.cells[one.place, one.policy].values(metric)
            both = gain(mine, cell.values(metric), sign)
            if both:
                gains.append(band(both).center)
        if gains:
            middle, low, high = statistics.median(gains), min(gains), max(gains)
            if verb == "short of":
                middle, low, high = -middle, -high, -low
            range_ = "" if len(gains) == 1 else f" (from {percent(low)} to {percent(high)})"
            parts.append(f"{percent(middle)}{range_} {verb} {other}")
    return f"In the median the winner is {', and '.join(parts)}." if parts else ""


def _bounds(table: SweepTable) -> list[tuple[str, str]]:
    return [(name, "short of") for name in table.aim.spec.bounds if name in table.policies]


def _wrong(table: SweepTable) -> list[str]:
    if len(table.places) < 2:
        return []
    return [
        f"{_called(table, str(one.choice.policy))} everywhere loses "
        f"{_cost(table, one, table.axes)}."
        for one in regrets(table)
    ]


def _cost(table: SweepTable, one: Regret, rest: Sequence[str]) -> str:
    text = f"{percent(one.mean.center)}{spread(one.mean)} on average"
    if one.places > 1:
        text += f", {percent(one.p90)} at the 90th percentile, {percent(one.worst)} at worst"
        text += f" ({told(rest, one.worst_at)})" if rest and one.worst > 0 else ""
    if not one.everywhere:
        text += f", counting the {one.places} of {one.out_of} points where it has a value"
    if one.not_fitting:
        text += f"; it does not fit at {one.not_fitting}"
    return text


def _settings(table: SweepTable) -> list[str]:
    texts = []
    for axis in table.aim.settings:
        found = regrets(table, [axis], by_policy=False)
        if len(found) < 2:
            continue
        rest = [name for name in table.axes if name != axis]
        head = f"{told([axis], found[0].choice.setting)} everywhere, with the best policy at each "
        head += f"point, loses {_cost(table, found[0], rest)}"
        others = ", ".join(
            f"{percent(one.mean.center)} at {shown(one.choice.setting[0])}" for one in found[1:9]
        )
        more = f", and {len(found) - 9} more" if len(found) > 9 else ""
        texts.append(f"{head}. Others on average: {others}{more}.")
    return texts + _unequal_work(table)


def _unequal_work(table: SweepTable) -> list[str]:
    """Warn where times of steps that may not do the same work are set against each other."""
    if table.aim.metric not in _TIMES:
        return []
    axes = [n for n in table.aim.settings if _WORK.search(n) and len(table.values[n]) > 1]
    if not axes:
        return []
    return [
        f"{table.aim.metric} is compared across {', '.join(axes)} as it is: that is sound only if "
        "a step does the same work at each value; else set report.metric to a throughput."
    ]


def _memory(table: SweepTable, found: Sequence[Winner]) -> str:
    out = [(one.place, name) for one in found for name in one.not_fitting]
    if not out:
        return ""
    names = ", ".join(f"{name} at {n}" for name, n in Counter(n for _, n in out).most_common())
    return (
        f"Not in memory, so it cannot win: {names} of {len(found)} {_s('point', len(found))}. "
        f"Such a row {NO_FIT}."
    )


def _missing(table: SweepTable, found: Sequence[Winner]) -> str:
    out = Counter(name for one in found for name in one.missing)
    if not out:
        return ""
    names = ", ".join(f"{name} at {count}" for name, count in out.most_common())
    return f"No comparable value of {table.aim.metric}: {names} of {len(found)} points."


def _samples(table: SweepTable) -> str:
    seeds = len({sample.seed for sample in table.samples})
    draws = len({sample.draw for sample in table.samples if not sample.nominal})
    if len(table.samples) < 2:
        return (
            "One seed and no draws of the numbers with a range: there are no bands, and a small "
            "difference may be chance."
        )
    parts = [f"{seeds} seeds"] if seeds > 1 else []
    if draws:
        told = f"{draws} {_s('draw', draws)} of the numbers with a range"
        parts.append(f"{told} beside the nominal ones")
    return (
        f"Brackets are 5-95 % bands over {' and '.join(parts)}; differences are taken in the same "
        "seed and draw, and a tie is a band that includes 0."
    )


def _synthetic(table: SweepTable) -> str:
    kind = table.synthetic
    return f"The loads are {kind}." if kind else ""


def use(table: SweepTable, found: Advice | None = None) -> str:
    """Return the advice: policy, settings, margin over the runner-up with its band."""
    found = found or advice(table)
    if found is None:
        return "Nothing can be advised: no policy that fits has a value."
    aim, best = table.aim, found.choice
    called = _called(table, str(best.choice.policy))
    setting = told(aim.settings, best.choice.setting)
    text = f"Use {called}{f' with {setting}' if setting else ''}. "
    if best.choice.policy == aim.spec.baseline:
        text = f"Do not balance{f' ({setting})' if setting else ''}. "
    scope = "" if best.out_of == 1 else f", over all {best.out_of} conditions"
    if not best.everywhere:
        scope = f", over {best.places} of {best.out_of} conditions"
    text += _over(table, found, scope)
    if best.choice != found.fastest.choice:
        more = found.fastest
        extra = (more.memory or 0.0) - (best.memory or 0.0)
        less = percent(best.mean.center - more.mean.center).replace("%", "percentage points")
        text += (
            f" {told(aim.settings, more.choice.setting)} would lose {less} less, within the "
            f"tolerance of {percent(aim.spec.tolerance_percent)}, and takes {extra:.2g} GB more."
        )
    if not best.everywhere:
        text += " No choice can be made under all conditions; this one can under most."
    return text


def _over(table: SweepTable, found: Advice, scope: str) -> str:
    best = found.choice
    cost = ""
    if best.out_of > 1:
        lost = _cost(table, best, table.aim.conditions)
        cost = f" Against the best choice under each condition it loses {lost}."
    if found.runner_up is None or found.margin is None:
        return f"There is no other policy to compare with.{cost}"
    other = name_of(table, found.runner_up.choice, table.aim.settings)
    margin = found.margin
    value = f"{percent(abs(margin.center))}{spread(margin)}"
    if margin.includes_zero:
        head = f"It is a tie with {other}: {percent(margin.center)}{spread(margin)}{scope}"
    elif margin.center < 0:
        head = f"{other} would be {value} better{scope}"
    else:
        head = f"It is {value} better than the runner-up, {other}{scope}"
    band_ = "" if margin.low is not None else " (one sample: no band)"
    return f"{head}{band_}.{cost}"
