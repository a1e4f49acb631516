from itertools import pairwise

import numpy as np
import pytest

from tests.engine.jobs import make_job
from ultraep_sim.engine.critical_path import critical_path
from ultraep_sim.engine.event import run_event
from ultraep_sim.engine.excerpts import one_layer
from ultraep_sim.engine.fast import run_fast
from ultraep_sim.errors import InputError
from ultraep_sim.report import plot_layer_timeline, plot_timeline
from ultraep_sim.report.blocks import Span
from ultraep_sim.report.plot_layer_timeline import rows, write_layer
from ultraep_sim.report.plot_timeline import write_pipeline

BUSY = {
    "fwd_attention": 1e-3, "fwd_dispatch": [1e-3, 2e-3], "fwd_compute": [3e-3, 1e-3],
    "bwd_compute": [6e-3, 2e-3], "bwd_attention": 2e-3, "bwd_grad_reduce": [1e-3, 0],
}  # fmt: skip


def job(**changes):
    return make_job(
        **{"stages": 2, "micro_batches": 4, "ranks": 2, "busy": BUSY, "finish_s": 1e-3, **changes}
    )


@pytest.fixture
def figures(monkeypatch):
    """Keep the figures that are saved, instead of closing them."""
    kept = []
    for module in (plot_timeline, plot_layer_timeline):
        save = module.save

        def keep(figure, stem, save=save):
            kept.append(figure)
            return save(figure, stem)

        monkeypatch.setattr(module, "save", keep)
    return kept


def polygons(axes):
    return [len(collection.get_paths()) for collection in axes.collections]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_unit_is_a_block_with_its_number(tmp_path, figures) -> None:
    given = job()
    times = run_fast(given)
    path = critical_path(given, times)
    files = write_pipeline(tmp_path / "p", times, 2, finish_s=given.finish_s, path=path)
    assert [file.name for file in files] == ["p.png", "p.svg"]
    assert all(file.stat().st_size > 5000 for file in files)
    (axes,) = figures[0].axes
    assert sum(polygons(axes)) == 2 * 2 * 4
    assert sorted(texts(figures[0])) == sorted("0123" * 4)
    share = 100 * times.busy_s[0, 0] / times.iteration_s
    assert axes.get_yticklabels()[0].get_text() == f"stage 0\n{share:.0f} % busy"
    assert "critical path" in legend(figures[0])
    assert "optimizer" in legend(figures[0])


def test_the_outline_follows_the_critical_path(tmp_path, figures) -> None:
    given = job(busy={"fwd_compute": [[[1e-3], [5e-3]]], "bwd_compute": [[[2e-3], [6e-3]]]},
                layers=1, hop_s=1e-4)  # fmt: skip
    times = run_fast(given)
    write_pipeline(tmp_path / "p", times, 2, path=critical_path(given, times))
    (axes,) = figures[0].axes
    boxes = [patch for patch in axes.patches if not patch.get_fill()]
    spans = [(round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_width()) for b in boxes]
    assert [stage for stage, _, _ in spans] == [0, 1, 0]
    for (_, start, width), (_, after, _) in pairwise(spans):
        assert after == pytest.approx(start + width + 0.1)  # the hop, in ms
    assert spans[-1][1] + spans[-1][2] == pytest.approx(1e3 * times.iteration_s)
    assert len(axes.lines) == 2


def test_joint_units_share_a_row_and_chunks_have_letters(tmp_path, figures) -> None:
    write_pipeline(tmp_path / "d", run_fast(job(overlap="dualpipe")), 2)
    heights = {
        round(float(np.ptp(path.vertices[:, 1])), 3)
        for collection in figures[0].axes[0].collections
        for path in collection.get_paths()
    }
    assert heights == {0.72, 0.36}
    write_pipeline(tmp_path / "i", run_fast(job(chunks=2)), 2)
    assert set(texts(figures[1])) == {f"{m}{chunk}" for m in range(4) for chunk in "ab"}
    assert "a, b: chunks of a stage" in legend(figures[1])


def test_deep_pipelines_and_many_micro_batches_still_fit(tmp_path, figures) -> None:
    write_pipeline(tmp_path / "p", run_fast(job(stages=24, micro_batches=60)), 24)
    width, height = figures[0].get_size_inches()
    assert height < width
    assert sum(polygons(figures[0].axes[0])) == 2 * 24 * 60


def layer_of(given, *place):
    sub = one_layer(given, *place)
    spans: list[Span] = []
    times = run_event(sub, spans=lambda *span: spans.append(Span(*span)))
    return spans, times


def test_one_layer_has_a_row_for_every_phase_that_takes_time() -> None:
    spans, times = layer_of(job(recompute="full"), 0, 1, 1)
    assert list(rows(spans, times)) == [
        ("forward", "fwd_attention"), ("forward", "fwd_dispatch"), ("forward", "fwd_compute"),
        ("recompute", "fwd_attention"), ("recompute", "fwd_dispatch"), ("recompute", "fwd_compute"),
        ("backward", "bwd_compute"), ("backward", "bwd_attention"), ("backward", "bwd_grad_reduce"),
    ]  # fmt: skip
    assert times.iteration_s == pytest.approx((1 + 2 + 3) * 2e-3 + 6e-3 + 2e-3)


def test_one_layer_takes_the_times_of_its_place() -> None:
    busy = np.arange(16.0).reshape(1, 4, 4, 1)
    given = make_job(stages=2, micro_batches=4, layers=2, busy={"fwd_compute": busy}, hop_s=9.0)
    spans, times = layer_of(given, 0, 2, 1)
    assert times.iteration_s == busy[0, 2, 1, 0] == 9
    assert [span.phase for span in spans] == ["fwd_compute"]


@pytest.mark.parametrize(("overlap", "start"), [("two_batch", 2), ("dualpipe", 2)])
def test_one_layer_brings_the_neighbour_that_hides_its_work(overlap: str, start: int) -> None:
    busy = np.arange(4.0).reshape(1, 4, 1, 1)
    given = make_job(micro_batches=4, busy={"fwd_compute": busy}, overlap=overlap)
    sub = one_layer(given, 0, 3, 0)
    assert sub.busy(0)["fwd_compute"].ravel().tolist() == [start, start + 1]
    assert sub.overlap == overlap


@pytest.mark.parametrize(
    ("place", "name"), [((1, 0, 0), "replica"), ((0, 4, 0), "micro_batch"), ((0, 0, -1), "layer")]
)
def test_a_layer_that_is_not_there_is_refused(place, name) -> None:
    with pytest.raises(InputError, match=rf"^{name}: .*give 0 to"):
        one_layer(job(), *place)


def test_a_layer_is_drawn_with_a_line_a_rank(tmp_path, figures) -> None:
    spans, times = layer_of(job(), 0, 0, 0)
    files = write_layer(tmp_path / "layer", spans, times)
    assert all(file.stat().st_size > 5000 for file in files)
    (axes,) = figures[0].axes
    marks = [1] * 6  # where each phase starts
    lines = [2, 2, 2, 2, 2, 1]  # one rank reduces no gradient
    assert polygons(axes) == [count for pair in zip(marks, lines, strict=True) for count in pair]
    found = texts(figures[0])
    assert "3 ms on rank 0, mean 2" in found
    assert "2 ms on rank 1, mean 1.5" in found
    assert found.count("1 ms") == 1  # attention is even
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "gradients reduced"


def test_the_same_run_gives_the_same_bytes(tmp_path) -> None:
    given = job()
    times = run_fast(given)
    spans, layer_times = layer_of(given, 0, 0, 0)
    first = write_pipeline(tmp_path / "a", times, 2) + write_layer(
        tmp_path / "al", spans, layer_times
    )
    again = write_pipeline(tmp_path / "b", times, 2) + write_layer(
        tmp_path / "bl", spans, layer_times
    )
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
