"""Damaged samples of every format: an error in one line or a read, never anything else.

``tests/fuzz_nightly.py`` runs the same with 100,000 files.
"""

import random
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trace.formats.mutate import survives
from tests.trace.formats.samples import cases
from tests.trace.toys import toy_meta, toy_trace
from ultraep_sim.errors import InputError
from ultraep_sim.trace.formats import tensorrt_llm, vllm_ascend

CASES = cases()


@pytest.mark.parametrize("name", CASES)
@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32))
def test_damaged_files(name, seed, tmp_path):
    survives(CASES[name], tmp_path / "in", random.Random(seed))


@pytest.mark.parametrize("name", CASES)
def test_most_damage_is_noticed(name, tmp_path):
    rng = random.Random(name)
    refused = [survives(CASES[name], tmp_path / "in", rng) is not None for _ in range(40)]
    assert sum(refused) >= 8


def test_placements_read_back_or_are_refused(tmp_path):
    from tests.trace.formats.mutate import mutate
    from tests.trace.formats.test_placements import plans

    for module in (tensorrt_llm, vllm_ascend):
        data = module.write_placement(plans(), tmp_path / "good").read_bytes()
        rng = random.Random(1)
        for _ in range(200):
            (tmp_path / "bad").write_bytes(mutate(data, rng))
            with suppress(InputError):  # always one line; anything else fails the test
                module.read_placement(tmp_path / "bad")


def test_own_files_are_fuzzed_through_the_same_door(tmp_path):
    from tests.trace.formats.samples import Case

    data = toy_trace(toy_meta(), steps=2).write(tmp_path / "a.parquet").read_bytes()
    case = Case("parquet", {"a.parquet": data}, None)
    rng = random.Random(3)
    assert sum(survives(case, tmp_path / "in", rng) is not None for _ in range(60)) > 30
