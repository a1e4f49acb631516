"""The table after the benchmarks: units, and ratios to the row that says it is the baseline."""

from tests.benchmarks.conftest import Measured, summary


def test_ratios_are_to_the_baseline_of_their_group():
    found = [
        Measured("solve", "ultraep", {"us_per_solve": 11.1}),
        Measured("solve", "plain transcription (baseline)", {"us_per_solve": 22.2}),
        Measured("replay", "none", {"records_per_s": 1000}),
        Measured("replay", "ultraep", {"records_per_s": 250}),
        Measured("other", "silent", {}),
    ]
    lines = summary(found)
    assert [line.split() for line in lines] == [
        ["solve"],
        ["ultraep", "11.1", "us/plan", "0.50x", "plain"],
        ["plain", "transcription", "(baseline)", "22.2", "us/plan", "1.00x", "plain"],
        ["replay"],
        ["none", "1,000.0", "records/s", "1.00x", "none"],
        ["ultraep", "250.0", "records/s", "0.25x", "none"],
    ]
    assert len({line.index("/") for line in lines if "us/plan" in line}) == 1
