"""Every test that asks for ``subject`` runs once for each policy under test."""

import json

import pytest

from ultraep_sim.policies import available_policies

from .subject import Subject


def pytest_generate_tests(metafunc):
    if "subject" in metafunc.fixturenames:
        subjects = _subjects(metafunc.config)
        metafunc.parametrize("subject", subjects, ids=[subject.name for subject in subjects])


def _subjects(config):
    known = available_policies()
    names = config.getoption("--policy") or sorted(known)
    options = dict(_option(text) for text in config.getoption("--policy-option"))
    for name in names:
        if name not in known:
            raise pytest.UsageError(f"--policy {name}: not registered; known: {', '.join(known)}")
    return [Subject(name, known[name], options) for name in names]


def _option(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise pytest.UsageError(f"--policy-option {text}: give KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
