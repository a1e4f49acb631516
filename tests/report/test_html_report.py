from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tests.trace.toys import toy_trace
from ultraep_sim.engine.watch import watch_trace
from ultraep_sim.errors import InputError
from ultraep_sim.planning import EPLayout
from ultraep_sim.report import html_compare, html_data, html_sweep
from ultraep_sim.report.html_page import SCRIPTS
from ultraep_sim.trace import load_trace

from .view_cases import META, manifest_of, pack_of, page_of, view_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def view():
    return view_of()


def test_the_page_stands_alone(tmp_path, view) -> None:
    written = page_of(tmp_path / "a.html", view)
    text = written.file.read_text()
    assert written.bytes == written.file.stat().st_size
    # Nothing is loaded: no element names a file or an address, and the policy forbids it.
    assert not re.search(r"<(script|img|iframe|object|embed)[^>]*\ssrc=", text)
    assert re.findall(r"<link[^>]*href=\"([^\"]*)", text) == ["data:,"]
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"\beval\(|new Function\(|\bfetch\(|XMLHttpRequest|@import|url\(", text)
    for words in ("Permission is hereby granted", "SYNTHETIC: toy", "ab" * 32):
        assert words in text


def test_the_same_view_gives_the_same_bytes(tmp_path, view) -> None:
    first = page_of(tmp_path / "a.html", view).file.read_bytes()
    assert page_of(tmp_path / "b.html", view_of()).file.read_bytes() == first


def test_the_levels_hold_the_loads_exactly(tmp_path, view) -> None:
    text = page_of(tmp_path / "a.html", view).file.read_text()
    manifest = manifest_of(text)
    trace = toy_trace(META, steps=30).select(layers=1)
    pack = pack_of(text, "experts1", manifest["expert_level"]["layers"][1])
    loads = pack["loads"].reshape(-1, 8)
    for at, record in enumerate(trace):
        np.testing.assert_array_equal(loads[at], record.loads.sum(axis=0))
    ranks = pack_of(text, "ranks1", manifest["rank_level"]["layers"][1])
    np.testing.assert_array_equal(ranks["time"], range(60))
    np.testing.assert_array_equal(ranks["pairs0"].reshape(-1, 4), loads.reshape(-1, 4, 2).sum(2))
    assert ranks["pairs2"].reshape(-1, 4).sum(1).tolist() == loads.sum(1).tolist()


def test_the_overview_is_the_imbalance_in_thousandths(tmp_path, view) -> None:
    text = page_of(tmp_path / "a.html", view).file.read_text()
    first = pack_of(text, "overview", manifest_of(text)["overview"])
    wanted = np.rint(view.imbalance[2] * 1000)
    np.testing.assert_array_equal(first["sample2"], wanted)
    quantiles = first["quantile0"].reshape(3, -1) / 10_000
    three = np.quantile(view.imbalance[0], [0, 0.5, 1])
    np.testing.assert_allclose(quantiles[0, [0, 64, 128]], three, atol=1e-4)
    layer = view.imbalance[0][view.layer == 1]
    np.testing.assert_allclose(quantiles[2, 128], layer.max(), atol=1e-4)


def test_wide_bins_keep_every_peak(monkeypatch, tmp_path, view) -> None:
    monkeypatch.setattr(html_data, "MAX_CELLS", 32)  # 16 bins of 60 micro-batches, 2 layers
    written = page_of(tmp_path / "a.html", view)
    text = written.file.read_text()
    manifest = manifest_of(text)
    assert manifest["cell_width"] == 4
    first = pack_of(text, "overview", manifest["overview"])
    by_time = np.rint(view.imbalance[0] * 1000).reshape(15, 4, 2)
    np.testing.assert_array_equal(first["peak0"].reshape(15, 2), by_time.max(axis=1))
    np.testing.assert_array_equal(first["sample0"].reshape(15, 2), by_time[:, 0])
    np.testing.assert_allclose(first["mean0"].reshape(15, 2), by_time.mean(axis=1), atol=0.51)
    assert any("mean and largest of every 4 micro-batches" in said for said in written.kept)


def test_what_does_not_fit_is_thinned_and_said(tmp_path) -> None:
    view = view_of(steps=300)
    whole = page_of(tmp_path / "a.html", view)
    assert not any("THINNED" in said for said in whole.kept)
    bound = whole.bytes - 4000
    written = page_of(tmp_path / "b.html", view, bound=bound)
    assert written.bytes <= bound
    said = [text for text in written.kept if "THINNED" in text]
    text = written.file.read_text()
    assert said
    assert all(sentence in text for sentence in said)
    manifest = manifest_of(text)
    every = manifest["expert_level"]["every"]
    assert every > 1
    more = sum(bool(view.time[row] % every) for row in view.worst)
    assert f"one micro-batch in {every}, and {more} more records" in said[-1]
    for layer in (0, 1):
        index = manifest["expert_level"]["layers"][layer]
        kept = set(pack_of(text, f"experts{layer}", index)["time"].tolist())
        worst = {int(view.time[row]) for row in view.worst if view.layer[row] == layer}
        assert kept == set(range(0, 600, every)) | worst


def test_a_bound_that_even_the_overview_breaks_is_refused(tmp_path, view) -> None:
    with pytest.raises(InputError, match=r"--max-mb: the overview alone does not fit .*; allow"):
        page_of(tmp_path / "a.html", view, bound=90_000)


def test_text_of_a_trace_cannot_become_markup(tmp_path, view) -> None:
    evil = "</script><script>alert(1)</script>{{table}}<!--"
    text = page_of(
        tmp_path / "a.html", view, source=evil, workload=evil, notes=[evil], digest=evil
    ).file.read_text()
    assert "<script>alert" not in text
    assert text.count("{{table}}") == 5  # title, heading, workload, digest, note: as it came


def test_ideal_is_never_called_the_best(tmp_path) -> None:
    view = view_of(steps=4, policies=("ideal", "ultraep"))
    names = {"ideal": "ideal", "ultraep": "ultraep"}
    text = page_of(tmp_path / "a.html", view, names=names).file.read_text()
    assert manifest_of(text)["best"] == 2
    assert "After ultraep it is" in text


def test_the_docs_tell_what_the_trace_shows() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    trace = load_trace(ROOT / "traces" / "train-aux.parquet").select(steps=31, layers=6)
    layout = EPLayout(trace.meta.source_ranks, trace.meta.num_experts, 2)
    view = watch_trace(trace, layout, ["ultraep"])
    detail = view.details[0]
    hot, expert = int(detail.pairs[0].argmax()), int(detail.loads.argmax())
    assert detail.loads[expert] > 0.9 * detail.pairs[0].max()
    instances = 1 + int((detail.away[1].expert == expert).sum())
    assert instances == 8
    told = f"At step 31 rank {hot} has {view.imbalance[0, 0]:.1f} times the mean load"
    assert told in " ".join(page.split())
    assert "spreads that expert over eight ranks" in page
    assert f"beyond {html_data.MAX_CELLS:,} cells" in page


def test_the_library_is_the_published_one() -> None:
    folder = files("ultraep_sim.report") / "vendor" / "uplot"
    readme = (folder / "README.md").read_text()
    stated = dict(re.findall(r"`(\S+)` \| `([0-9a-f]{64})`", readme))
    assert set(stated) == {"uPlot.iife.min.js", "uPlot.min.css"}
    for name, digest in stated.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    version = re.search(r"# uPlot ([\d.]+)", readme).group(1)
    for name in ("page", "sweep", "compare"):
        page = (files("ultraep_sim.report") / "viewer" / f"{name}.html").read_text()
        assert f"uPlot {version}" in page
    assert f"(v{version})" in (folder / "uPlot.iife.min.js").read_text()[:100]


def test_every_script_is_used() -> None:
    folder = files("ultraep_sim.report") / "viewer"
    used = {*SCRIPTS, *html_sweep.SCRIPTS, *html_compare.SCRIPTS}
    assert {f"{name}.js" for name in used} == {
        file.name for file in folder.iterdir() if file.name.endswith(".js")
    }
