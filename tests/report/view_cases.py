"""Small load views and pages of them."""

from __future__ import annotations

import json
import re

from tests.trace.toys import toy_meta, toy_trace
from ultraep_sim.engine.watch import watch_trace
from ultraep_sim.planning import EPLayout
from ultraep_sim.report.html_codec import unpack
from ultraep_sim.report.html_report import About, write_report

LAYOUT = EPLayout(4, 8, 1)
META = toy_meta()


def view_of(steps=30, policies=("eplb_plus", "ultraep")):
    return watch_trace(toy_trace(META, steps=steps), LAYOUT, policies)


def about(**changes):
    fields = {
        "source": "toy",
        "kind": "SYNTHETIC",
        "workload": "SYNTHETIC: toy",
        "digest": "ab" * 32,
        "names": {"eplb_plus": "eplb_plus", "ultraep": "ultraep"},
    }
    return About(**{**fields, **changes})


def page_of(path, view=None, *, bound=5_000_000, **changes):
    return write_report(view or view_of(), about(**changes), path, bound)


def manifest_of(text):
    return json.loads(re.search(r'id="manifest">(.*?)</script>', text).group(1))


def pack_of(text, name, index):
    return unpack(re.search(rf'id="{name}">(.*?)</script>', text).group(1), index)
