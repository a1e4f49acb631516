"""The public names are exact, and imports stay as light as promised."""

import subprocess
import sys

import pytest

import ultraep_sim as us

PUBLIC = {
    "EPLayout", "InputError", "Plan", "Policy", "RunResult", "Scenario", "Trace",
    "UltraEPSimError", "available_policies", "load_scenario", "load_trace", "plan", "plan_many",
    "run",
}  # fmt: skip


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_is_exact_and_every_name_loads():
    assert set(us.__all__) == PUBLIC
    for name in us.__all__:
        assert getattr(us, name) is not None
    assert set(us.__all__) <= set(dir(us))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = us.nope


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert us.__version__ == version("ultraep-sim")


@pytest.mark.parametrize("heavy", ["torch", "matplotlib", "pyarrow", "pydantic", "scipy"])
def test_import_stays_light(heavy):
    found = python(f"import sys, ultraep_sim; sys.exit({heavy!r} in sys.modules)")
    assert found.returncode == 0, found.stderr


def test_the_whole_public_api_needs_no_torch():
    code = (
        "import sys, ultraep_sim as us\n"
        "[getattr(us, name) for name in us.__all__]\n"
        "sys.exit('torch' in sys.modules)"
    )
    found = python(code)
    assert found.returncode == 0, found.stderr


def test_planning_runs_with_numpy_and_numba_only():
    """GPU machines are often locked down: nothing else may be imported."""
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'pydantic', 'yaml', 'typer', 'rich', 'matplotlib', 'pandas',\n"
        "             'scipy', 'torch', 'simpy', 'networkx'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from ultraep_sim.planning import EPLayout, QuotaSolver\n"
        "import hw_runtime\n"
        "found = QuotaSolver(EPLayout(4, 8, 1)).solve(np.arange(8, dtype=np.int64) ** 3)\n"
        "assert len(found.expert) > 0\n"
    )
    found = python(code)
    assert found.returncode == 0, found.stderr
