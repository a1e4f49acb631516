"""Each disease planted in a healthy dump is found, it alone; its repair gives the health back."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.trace.toys import deal
from ultraep_sim.errors import TraceError
from ultraep_sim.trace.convert import as_trace, judge_and_repair
from ultraep_sim.trace.diagnose import REPAIRS, diagnose
from ultraep_sim.trace.formats import Dump, DumpMeta, RawRecord

EXPERTS, TOP_K, LAYERS, SOURCES, STEPS, TOKENS = 16, 2, 3, 3, 40, 24


def healthy_records(tokens=TOKENS):
    rng = np.random.default_rng(7)
    return [
        RawRecord(
            step,
            0,
            layer,
            np.stack([deal(rng, tokens, EXPERTS, TOP_K, 0.5) for _ in range(SOURCES)]).astype(
                np.int64
            ),
        )
        for step in range(STEPS)
        for layer in range(LAYERS)
    ]


HEALTHY = healthy_records()


def dump_of(records, told=None, **changes):
    fields = {
        "format": "test",
        "num_experts": EXPERTS,
        "num_layers": LAYERS,
        "source_ranks": SOURCES,
        "top_k": TOP_K,
        "model": "toy",
    }

    def stream(observed):
        observed.update(told or Counter())
        yield from records

    return Dump(DumpMeta(**{**fields, **changes}), (Path("dump"),), stream)


def names(dump):
    return [finding.name for finding in diagnose(dump)]


def same_records(one, other):
    return len(one) == len(other) and all(
        a[:3] == b[:3] and np.array_equal(a.loads, b.loads) for a, b in zip(one, other, strict=True)
    )


def scaled(records, factor):
    return [r._replace(loads=r.loads * factor) for r in records]


def with_step(records, change):
    return [r._replace(step=change(r.step)) for r in records]


def padded(records, tokens=100):
    """Padding tokens of rank 0: in every layer all choose the same two experts."""
    out = []
    for record in records:
        loads = record.loads.copy()
        loads[0, [3 + record.layer, 9]] += tokens
        out.append(record._replace(loads=loads))
    return out


def dummy_ranks(records):
    """Rank 2 is idle on every fourth step and runs a dummy batch of 8 tokens."""
    out = []
    for record in records:
        loads = record.loads.copy()
        if record.step % 4 == 1:
            loads[2] = 0
            loads[2, [1 + record.layer, 8]] = 8
        out.append(record._replace(loads=loads))
    return out


def without_dummies(records):
    out = []
    for record in records:
        loads = record.loads.copy()
        if record.step % 4 == 1:
            loads[2] = 0
        out.append(record._replace(loads=loads))
    return out


def emptied(records, steps):
    return [r._replace(loads=r.loads * 0) if r.step in steps else r for r in records]


def ring(records, hole, at):
    """Positions of a ring: newest rows first, then rows never written, then the oldest."""
    old = [r for r in records if r.step < at]
    new = [r for r in records if r.step >= at]
    newest = len({r.step for r in new})
    return [
        *with_step(new, lambda s: s - at),
        *(
            RawRecord(newest + gap, 0, layer, np.zeros((SOURCES, EXPERTS), np.int64))
            for gap in range(hole)
            for layer in range(LAYERS)
        ),
        *with_step(old, lambda s: s + newest + hole),
    ]


def mixed(records):
    """Every third step is decode: one token a source."""
    small = {r[:3]: r for r in healthy_records(tokens=1)}
    return [small[r[:3]] if r.step % 3 == 2 else r for r in records]


def other_top_k(records):
    rng = np.random.default_rng(5)
    return [
        r._replace(
            loads=np.stack([deal(rng, TOKENS, EXPERTS, 1, 0.5) for _ in range(SOURCES)]).astype(
                np.int64
            )
        )
        if r.layer == 1
        else r
        for r in records
    ]


def capped(records, cap=11):
    return [r._replace(loads=np.minimum(r.loads, cap)) for r in records]


def swapped(records):
    out = list(records)
    for at in (10, 50):
        out[at], out[at + 4] = out[at + 4], out[at]
    return out


def lost(records):
    return [r for at, r in enumerate(records) if at not in (20, 70)]


def replicated_rank(records):
    return [r._replace(loads=r.loads[[0, 0, 1]]) for r in records]


def dead(records, layer=1):
    return [r._replace(loads=r.loads * 0) if r.layer == layer else r for r in records]


LOST_BATCHES = {(HEALTHY[at].step, 0) for at in (20, 70)}
DISEASES = {
    # name: (dump, finding, repair, records after it)
    "replicated": (dump_of(scaled(HEALTHY, 4)), "replicated-counting", "divide-replicas", HEALTHY),
    "replicated ranks": (
        dump_of(replicated_rank(HEALTHY)),
        "replicated-ranks",
        "drop-replica-ranks",
        [r._replace(loads=r.loads[[0, 1]]) for r in HEALTHY],
    ),
    "dummy ranks": (
        dump_of(dummy_ranks(HEALTHY)),
        "dummy-rows",
        "drop-dummy-rows",
        without_dummies(HEALTHY),
    ),
    "padding": (dump_of(padded(HEALTHY)), "padding", "subtract-padding", None),
    "zero rows": (
        dump_of(emptied(HEALTHY, {38, 39})),
        "zero-rows",
        "drop-zero-rows",
        [r for r in HEALTHY if r.step < 38],
    ),
    "ring with a hole": (
        dump_of(ring(HEALTHY, 5, 25), positions=True),
        "ring-wrap",
        "unroll-ring",
        HEALTHY,
    ),
    "ring with numbers": (
        dump_of([r for r in HEALTHY if r.step >= 15] + [r for r in HEALTHY if r.step < 15]),
        "ring-wrap",
        "unroll-ring",
        HEALTHY,
    ),
    "out of order": (dump_of(swapped(HEALTHY)), "out-of-order", "sort", HEALTHY),
    "duplicates": (
        dump_of(HEALTHY[:30] + HEALTHY[29:]),
        "duplicate-records",
        "drop-duplicates",
        HEALTHY,
    ),
    "mixed phases": (
        dump_of(mixed(HEALTHY)),
        "mixed-phases",
        "keep-large",
        [r for r in HEALTHY if r.step % 3 != 2],
    ),
    "missing chunk": (
        dump_of([r for r in HEALTHY if not 10 <= r.step < 20]),
        "missing-chunks",
        "declare-gaps",
        [r for r in HEALTHY if not 10 <= r.step < 20],
    ),
    "dropped records": (
        dump_of(lost(HEALTHY)),
        "dropped-records",
        "drop-incomplete",
        [r for r in HEALTHY if r[:2] not in LOST_BATCHES],
    ),
    "other top-k": (dump_of(other_top_k(HEALTHY)), "top-k-not-constant", None, None),
    "dropped pairs": (dump_of(capped(HEALTHY)), "unequal-sums", "drop-uneven", None),
    "wrong top-k": (dump_of(HEALTHY, top_k=5), "not-divisible", None, None),
    "dead layer": (
        dump_of(dead(HEALTHY)),
        "dead-layers",
        "drop-dead-layers",
        [r for r in HEALTHY if r.layer != 1],
    ),
    "layer never recorded": (
        dump_of(HEALTHY, num_layers=LAYERS + 1),
        "dead-layers",
        "drop-dead-layers",
        HEALTHY,
    ),
    "negative": (
        dump_of([HEALTHY[0]._replace(loads=HEALTHY[0].loads - 1), *HEALTHY[1:]]),
        "negative-counts",
        None,
        None,
    ),
    "empty": (dump_of([]), "empty", None, None),
}


def test_a_healthy_dump_has_none():
    assert names(dump_of(HEALTHY)) == []


@pytest.mark.parametrize("name", [n for n in DISEASES if n != "negative"])
def test_the_disease_is_found_and_nothing_else(name):
    dump, finding, _, _ = DISEASES[name]
    assert names(dump) == [finding]


def test_negative_counts_are_found():
    # What an overflow does to sums is found beside it.
    assert "negative-counts" in names(DISEASES["negative"][0])


@pytest.mark.parametrize("name", [n for n, case in DISEASES.items() if case[3] is not None])
def test_the_repair_gives_the_healthy_records_back(name):
    dump, finding, repair, expected = DISEASES[name]
    found = judge_and_repair(dump, [repair])
    # To leave out a micro-batch makes a gap, which is told too.
    left = ["missing-chunks"] if finding == "dropped-records" else []
    assert [f.name for f in found.findings] == left
    assert same_records(list(found.dump.records()), expected)
    done = found.dump.meta.notes["repairs"]
    assert [(d["repair"], d["of"]) for d in done] == [(repair, finding)]
    assert as_trace(found).meta.notes["repairs"] == done


def test_padding_is_taken_off_as_far_as_it_can_be_seen():
    found = judge_and_repair(dump_of(padded(HEALTHY)), ["subtract-padding"])
    assert found.findings == []
    for mended, healthy in zip(found.dump.records(), HEALTHY, strict=True):
        left = mended.loads.sum() - healthy.loads.sum()
        assert 0 >= left / TOP_K >= -0.12 * 100  # what real tokens never fall below goes too


def test_small_batches_can_be_kept_too():
    found = judge_and_repair(dump_of(mixed(HEALTHY)), ["keep-small"])
    assert {int(total) for total in found.seen.totals} == {SOURCES * TOP_K}


def test_dropped_pairs_leave_nothing_behind():
    found = judge_and_repair(dump_of([*HEALTHY[:-3], *capped(HEALTHY[-3:], 5)]), ["drop-uneven"])
    assert same_records(list(found.dump.records()), HEALTHY[:-3])


def test_gaps_are_written_into_the_sampling():
    found = judge_and_repair(DISEASES["missing chunk"][0], ["declare-gaps"])
    assert as_trace(found).meta.sampling == {"steps": [[0, 10], [20, 40]]}


def test_repairs_follow_one_another():
    sick = dump_of(scaled(emptied(HEALTHY, {0}), 2))
    assert names(sick) == ["zero-rows", "replicated-counting"]
    found = judge_and_repair(sick, ["divide-replicas", "drop-zero-rows"])
    assert found.findings == []
    assert [d["repair"] for d in as_trace(found).meta.notes["repairs"]] == [
        "divide-replicas",
        "drop-zero-rows",
    ]


def test_nothing_is_repaired_that_is_not_sick():
    with pytest.raises(TraceError, match=r"nothing here needs this repair.*leave it out"):
        judge_and_repair(dump_of(HEALTHY), ["sort"])
    with pytest.raises(TraceError, match="asks for divide-replicas"):
        judge_and_repair(dump_of(scaled(HEALTHY, 2)), ["sort"])
    with pytest.raises(TraceError, match="no such repair"):
        judge_and_repair(dump_of(HEALTHY), ["heal"])


def test_what_no_trace_can_hold_stops_with_its_name_and_repair():
    found = judge_and_repair(DISEASES["zero rows"][0])
    with pytest.raises(TraceError, match=r"zero-rows: 2 of 40 .*--repair drop-zero-rows"):
        as_trace(found)


def test_what_a_trace_can_hold_is_written_into_its_notes():
    found = judge_and_repair(dump_of(scaled(HEALTHY, 4)))
    trace = as_trace(found)
    assert trace.meta.notes["found"] == ["replicated-counting: every count is a multiple of 4"]


@pytest.mark.parametrize(
    ("told", "finding"),
    [
        ("logical and physical sums differ", "logical-physical"),
        ("masked tokens", "masked-tokens"),
        ("partly masked tokens", "partly-masked-tokens"),
        ("repeated experts", "repeated-experts"),
        ("source rows missing", "missing-rank-rows"),
        ("tokens left over", "tokens-left-over"),
    ],
)
def test_what_a_reader_met_is_told(told, finding):
    found = diagnose(dump_of(HEALTHY, Counter({told: 3})))
    assert [f.name for f in found] == [finding]
    assert found[0].seen.startswith("3 ")


def test_every_repair_is_asked_for_by_some_disease():
    asked = {name for dump, *_ in DISEASES.values() for f in diagnose(dump) for name in f.repairs}
    assert asked == set(REPAIRS)


def test_sampling_and_windows_are_no_gaps():
    every = [r for r in HEALTHY if r.step % 5 == 0]
    assert names(dump_of(every, sampling={"step_every": 5})) == []
    assert names(dump_of(every)) == []  # steps that are regular tell their own spacing
    windows = [r for r in HEALTHY if r.step < 10 or r.step >= 30]
    assert names(dump_of(windows, sampling={"steps": [[0, 10], [30, 40]]})) == []
    assert names(dump_of(windows)) == ["missing-chunks"]
    layers = [r for r in HEALTHY if r.layer != 1]
    assert names(dump_of(layers, sampling={"layers": [0, 2]})) == []


def test_requests_of_any_length_are_no_mixed_phases():
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.uniform(2, 7, STEPS)).astype(int)
    records = [
        RawRecord(step, 0, layer, deal(rng, int(n), EXPERTS, TOP_K)[None].astype(np.int64))
        for step, n in enumerate(sizes)
        for layer in range(LAYERS)
    ]
    assert names(dump_of(records, source_ranks=1)) == []
