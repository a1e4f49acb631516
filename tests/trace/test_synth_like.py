"""Synthetic traces beside the recorded ones they were fitted to."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.trace.toys import same, toy_meta, toy_trace
from ultraep_sim.cli import app
from ultraep_sim.errors import TraceError
from ultraep_sim.trace import Trace, closeness, load_trace, synthesize_like, trace_stats
from ultraep_sim.trace.synth_fit import nonnegative_least_squares
from ultraep_sim.trace.synth_like import fit_like, one_domain
from ultraep_sim.trace.synth_process import log_gamma
from ultraep_sim.trace.synth_sources import clusters
from ultraep_sim.trace.synth_trend import find_gaps, find_switches, find_timeline, pieces_of

TRACES = Path(__file__).resolve().parents[2] / "traces"


def misses(real, synthetic):
    """Statistics that are promised and not kept, with both values."""
    found = []
    for one in closeness(real, synthetic):
        promised = (one.name.startswith("imbalance") and one.name.endswith("mean")) or (
            one.name.startswith("step correlation")
        )
        if promised and not math.isnan(one.real) and not abs(one.difference) <= 0.05:
            found.append(one)
    return found


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("prefill-switch", {}),
        # Parts, to save time. Not any will do: docs/traces.md tells which statistics a part misses.
        ("train-aux", {"layers": slice(2, 5)}),
        ("train-bias", {"layers": slice(2, 5)}),
        ("train-aux-steps", {"steps": slice(800, 1120)}),
        ("train-bias-steps", {"steps": slice(0, 320)}),
    ],
)
def test_statistics_of_shipped_traces_are_kept_at_any_seed(name, part):
    """`docs/refresh_synth.py` does the same with whole files and five seeds."""
    real = load_trace(TRACES / f"{name}.parquet").select(**part)
    fitted = fit_like(real)
    for seed in (0, 11):
        assert misses(real, fitted.draw(seed=seed)) == []


@pytest.fixture(scope="module")
def switch():
    """A part of the trace that switches domain, small enough for many tests."""
    trace = load_trace(TRACES / "prefill-switch.parquet")
    return trace.select(steps=slice(0, 36), layers=slice(0, 2)).with_sources(16)


@pytest.fixture(scope="module")
def fitted(switch):
    return fit_like(switch)


def test_sources_differ_as_they_do_in_the_recording(switch, fitted):
    real, drawn = (trace_stats(t).overall for t in (switch, fitted.draw(seed=2)))
    assert real.source_overdispersion > 1.5
    assert drawn.source_overdispersion == pytest.approx(real.source_overdispersion, rel=0.12)


def test_source_overdispersion_is_the_chi_squared_of_rows():
    trace = toy_trace(steps=5)
    chi = freedom = 0.0
    for record in trace:
        if record.layer:
            continue
        rows = record.loads[:, record.loads.sum(axis=0) > 0]
        due = rows.sum(axis=1, keepdims=True) * rows.sum(axis=0) / rows.sum()
        chi += ((rows - due) ** 2 / due).sum()
        freedom += (rows.shape[0] - 1) * (rows.shape[1] - 1)
    assert trace_stats(trace, (2,)).layers[0].source_overdispersion == pytest.approx(chi / freedom)
    alone = toy_trace(toy_meta(source_ranks=1))
    assert math.isnan(trace_stats(alone, (2,)).overall.source_overdispersion)


def test_domains_keep_their_profiles(switch, fitted):
    named = {one.name: one for one in closeness(switch, fitted.draw(seed=3))}
    assert named["cross-domain correlation"].real < 0.8
    assert abs(named["cross-domain correlation"].difference) < 0.03
    assert abs(named["cross-domain, pair that differs most"].difference) < 0.05


def test_the_trace_is_valid_new_and_says_what_it_is(switch, fitted, tmp_path):
    drawn = fitted.draw(seed=1)
    again = load_trace(drawn.write(tmp_path / "s.parquet"))
    assert same(again, drawn)
    assert trace_stats(again).ok
    assert drawn.meta.synthetic
    assert drawn.meta.notes["like"]["digest"] == switch.digest
    assert drawn.digest == synthesize_like(switch, seed=1).digest != fitted.draw(seed=2).digest
    assert same(drawn, synthesize_like(switch, seed=1))
    assert not same(drawn, fitted.draw(seed=2))
    recorded = {r.loads.tobytes() for r in switch}
    sums = {r.loads.sum(axis=0).tobytes() for r in switch}
    for record in drawn:
        assert record.loads.tobytes() not in recorded
        assert record.loads.sum(axis=0).tobytes() not in sums


def test_a_slice_holds_the_same_draws(fitted):
    drawn = fitted.draw(seed=1)
    wanted = [r for r in drawn if r.step in (3, 13) and r.layer == 1]
    view = list(drawn.select(steps=slice(3, 14, 10), layers=1))
    assert [r[:3] for r in view] == [r[:3] for r in wanted]
    assert all(np.array_equal(a.loads, b.loads) for a, b in zip(view, wanted, strict=True))


def test_more_steps_go_on_with_the_first_domain_and_new_noise(fitted):
    drawn = fitted.draw(steps=80, seed=1).select(layers=1)
    loads = np.array([r.loads.sum(axis=0) for r in drawn], dtype=float)
    assert len(loads) == 80
    assert np.corrcoef(loads[:10].sum(0), loads[36:46].sum(0))[0, 1] > 0.97
    assert np.corrcoef(loads[:10].sum(0), loads[26:36].sum(0))[0, 1] < 0.9
    assert not np.array_equal(loads[0], loads[36])


def test_windows_and_fewer_steps_are_numbered_as_recorded():
    real = load_trace(TRACES / "train-bias.parquet").select(layers=slice(0, 1))
    fitted = fit_like(real)
    assert fitted.draw().meta.sampling["steps"] == real.meta.sampling["steps"]
    assert np.array_equal(fitted.draw().steps, real.steps)
    assert fitted.draw(steps=50).meta.sampling["steps"] == [[0, 40], [1190, 1200]]
    assert fitted.draw(steps=90).steps[-1] == real.steps[-1] + 10


def test_one_domain_can_be_drawn(switch):
    python = one_domain(switch, "python")
    drawn = synthesize_like(python, steps=20)
    assert drawn.meta.notes["like"]["domain"] == "python"
    assert drawn.meta.notes["like"]["pieces"] == 1
    with pytest.raises(TraceError, match=r"no segment .*got 'cobol'.* python, man-en, man-de"):
        one_domain(switch, "cobol")


def moving(meta, steps=12, micro_batches=1):
    return toy_trace(meta, steps=steps, micro_batches=micro_batches)


@pytest.mark.parametrize(
    "meta",
    [
        toy_meta(num_layers=1, tokens_per_rank=60),
        toy_meta(source_ranks=1, tokens_per_rank=60),
        toy_meta(top_k=8, tokens_per_rank=20),
        toy_meta(num_experts=2, top_k=1, phase="prefill"),
        toy_meta(num_experts=1, top_k=1),
    ],
    ids=["one layer", "no source", "all experts", "two experts", "one expert"],
)
@pytest.mark.parametrize("shape", [(12, 1), (4, 3), (1, 4)], ids=str)
def test_small_and_odd_traces_work(meta, shape):
    real = moving(meta, *shape)
    drawn = synthesize_like(real, seed=4)
    assert trace_stats(drawn, (meta.num_experts,)).ok
    assert np.array_equal(drawn.keys(), real.keys())
    assert len(closeness(real, drawn)) >= 5


def test_sources_without_tokens_work():
    real = moving(toy_meta())
    records = [r._replace(loads=r.loads * np.array([[1], [1], [0], [1]])) for r in real]
    drawn = synthesize_like(Trace.from_records(real.meta, records))
    assert trace_stats(drawn, (2,)).tokens == (4, 4) or trace_stats(drawn, (2,)).tokens == (5, 5)


def test_micro_batches_of_a_step_differ_as_recorded():
    rng = np.random.default_rng(5)
    meta = toy_meta(num_experts=16, top_k=1, source_ranks=1, num_layers=2, tokens_per_rank=4000)
    base = rng.dirichlet(np.full(16, 4.0))
    loads = [rng.multinomial(4000, rng.dirichlet(200 * base)) for _ in range(40 * 4 * 2)]
    keys = np.indices((40, 4, 2)).reshape(3, -1)
    real = Trace.from_arrays(meta, *keys, np.array(loads)[:, None])
    one, other = (trace_stats(t, (8,)).overall for t in (real, synthesize_like(real, seed=3)))
    assert one.overdispersion > 10
    assert other.overdispersion == pytest.approx(one.overdispersion, rel=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.select(steps=0), "fewer than 4 micro-batches"),
        (lambda t: t.select(steps=99), "fewer than 4 micro-batches"),
        (lambda t: Trace.from_records(t.meta, list(t)[1:]), "not every step has every layer"),
    ],
)
def test_what_has_no_statistics_is_refused(change, message):
    with pytest.raises(TraceError, match=message) as caught:
        synthesize_like(change(moving(toy_meta())))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"steps": 0}, {"steps": 2.5}, {"seed": -1}, {"seed": True}])
def test_impossible_options_are_named(option):
    with pytest.raises(TraceError, match=next(iter(option))):
        synthesize_like(moving(toy_meta()), **option)


def test_switches_and_gaps_are_found():
    rng = np.random.default_rng(0)
    profiles = rng.dirichlet(np.ones(64), size=3)
    shares = np.repeat(profiles, 20, axis=0) * rng.lognormal(0, 0.05, (60, 64))
    shares = (shares / shares.sum(axis=1, keepdims=True))[:, None]
    assert find_switches(shares) == [20, 40]
    assert find_switches(np.full((60, 1, 8), 1 / 8)) == []
    assert find_gaps(np.array([0, 1, 2, 9, 10, 11])) == [3]
    assert pieces_of([40, 1, 20, 20, 22, 59], 60) == [20, 40]


def test_timeline_weights_sum_to_one_and_interpolate():
    steps = np.r_[np.arange(100), np.arange(1000, 1040)]
    line = find_timeline(steps, [100], moves=True)
    weights = line.weights()
    assert weights.shape == (140, line.num_knots)
    assert np.allclose(weights.sum(axis=1), 1.0)
    knots = np.arange(line.num_knots, dtype=float)
    assert np.allclose([line.at(i, knots) for i in range(140)], weights @ knots)
    assert (weights.sum(axis=0) > 3).all()
    still = find_timeline(steps, [100], moves=False)
    assert still.num_knots == 2


def test_gamma_noise_has_mean_one_and_its_variance():
    score = np.random.default_rng(1).standard_normal(200_000)
    for variance in (0.01, 0.3, 1.0):
        drawn = np.exp(log_gamma(score, np.full_like(score, variance)))
        assert drawn.mean() == pytest.approx(1.0, abs=0.02)
        assert drawn.var() == pytest.approx(variance, rel=0.06)


def test_nonnegative_least_squares():
    matrix = np.array([[1.0, 0.5], [0.2, 1.0], [0.3, 0.3]])
    assert nonnegative_least_squares(matrix, matrix @ [2.0, 3.0]) == pytest.approx([2, 3], abs=1e-6)
    assert nonnegative_least_squares(matrix, matrix @ [2.0, -1.0])[1] == 0.0


def test_clusters_are_the_groups_there_are():
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((3, 40))
    truth = rng.integers(0, 3, 300)
    found = clusters(centres[truth] + 0.3 * rng.standard_normal((300, 40)), 3)
    for group in range(3):
        assert len(set(truth[found == group].tolist())) == 1


def test_the_command_tells_how_close_it_is(tmp_path):
    like, out = tmp_path / "real.parquet", tmp_path / "s.parquet"
    load_trace(TRACES / "train-aux.parquet").select(
        steps=slice(0, 12), layers=slice(0, 1)
    ).with_sources(4).write(like)
    runner = CliRunner()
    shown = runner.invoke(app, ["trace", "synth", str(out), "--like", str(like)])
    assert shown.exit_code == 0
    assert "imbalance EP64 mean" in shown.output
    assert "SYNTHETIC" in shown.output
    args = ["trace", "synth", str(out), "--like", str(like), "--steps", "20", "--seed", "3"]
    told = runner.invoke(app, [*args, "--json"])
    plain = json.loads(told.stdout)
    assert plain["steps"] == 20
    assert plain["digest"] == load_trace(like).digest
    assert {"name", "real", "synthetic", "difference", "relative"} <= set(plain["closeness"][0])
    assert load_trace(out).meta.notes["like"]["seed"] == 3


@pytest.mark.parametrize(
    ("args", "place"),
    [
        (["--like", "LIKE", "--experts", "8"], "--experts"),
        (["--like", "LIKE", "--domain", "x"], "domain"),
        (["--like", "nowhere.parquet"], "nowhere.parquet"),
        (["--domain", "x"], "--domain"),
        (["--json"], "--json"),
        (["--experts", "8"], "--top-k"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(args, place, tmp_path):
    like = moving(toy_meta()).write(tmp_path / "like.parquet")
    args = [str(like) if arg == "LIKE" else arg for arg in args]
    found = CliRunner().invoke(app, ["trace", "synth", str(tmp_path / "o.parquet"), *args])
    text = found.output + (str(found.exception) if found.exception else "")
    assert found.exit_code != 0
    assert place in text
    assert not (tmp_path / "o.parquet").exists()
