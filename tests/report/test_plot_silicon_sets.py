"""The page of a system: a panel a set, in words what its points say."""

from __future__ import annotations

from ultraep_sim.report.plot_silicon_sets import figure

SETS = (
    "h200/trtllm/moe_torch_flow_cutlass/qwen3-30b/fp8",
    "h200/trtllm/deepgemm/kimi-k2/fp8_block",
)


def rows(name):
    return [
        {"case": f"{name}/{2**i}/ep{4}", "relative_error": e, "role": role}
        for i, (e, role) in enumerate(
            [(0.01, "fitted"), (0.02, "predicted"), (-0.04, "predicted"), (0.9, "predicted")]
        )
    ]


def drawn(positions):
    return figure([row for name in SETS for row in rows(name)], positions, "title", "source")


def test_every_set_has_a_panel_with_its_figures():
    page = drawn({f"{SETS[0]}/power_law_1.2/{2**i}/ep4": p for i, p in enumerate((0.5, 0.99))})
    upper, lower, other, empty = page.axes
    assert upper.get_title("left") == "qwen3-30b, fp8\ncutlass"
    assert other.get_title("left") == "kimi-k2, fp8_block\ndeepgemm"
    assert [t.get_text() for t in upper.texts] == ["held out: median 4.0 %, p90 72.8 %"]
    assert [t.get_text() for t in lower.texts] == ["50% in band"]
    assert not list(empty.texts)


def test_what_lies_far_off_stays_on_the_panel():
    upper = drawn({}).axes[0]
    low, high = upper.get_ylim()
    for points in upper.collections:
        offsets = points.get_offsets()
        assert ((offsets[:, 1] > low) & (offsets[:, 1] < high)).all()
