"""Scenarios with requests, for tests."""

from ultraep_sim.scenario import scenario_from_dict

POISSON = {"arrivals": {"rate_per_s": 50.0}, "duration_s": 200.0, "lengths": {"mean": 2000.0}}


def scene(seed=0, serving=None, **requests):
    """A scenario with these requests; a Poisson process of 10,000 by default."""
    requests = {**POISSON, "routing": {"imbalance": 2.0}, **requests}
    return scenario_from_dict(
        {
            "name": "requests",
            "model": "qwen3-235b",
            "rack": "paper-rack64",
            "ep": {"ranks": 64, "slots_per_rank": 2},
            "workload": {"requests": requests},
            "serving": {"warmup_s": 0.0, **(serving or {})},
            "policies": ["none"],
            "seed": seed,
        }
    )


def replayed(file, **requests):
    """A scenario that replays a recording with its lengths."""
    return scene(**{"arrivals": {"file": str(file)}, "lengths": None, **requests})
