import numpy as np
import pytest

from tests.serving.scenes import replayed, scene
from ultraep_sim.errors import ArrivalsError, InputError, ScenarioError
from ultraep_sim.serving import bursts, lengths, requests, times
from ultraep_sim.serving.draws import stream
from ultraep_sim.serving.requests import Requests, make_requests

MIX = {"mix": {"chat": 0.6, "code": 0.4}}
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:05.9799600,110,27
2023-11-16 18:17:13.9799600,7433,14
"""
# Four prompts of three, three, one and two blocks: the second begins as the first does, the third
# is the beginning of both, the fourth shares a block in its middle only.
MOONCAKE = """{"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 3]}
{"timestamp": 3000, "input_length": 512, "output_length": 5, "hash_ids": [0]}
{"timestamp": 9000, "input_length": 1024, "output_length": 5, "hash_ids": [7, 1]}
"""


@pytest.fixture
def azure(tmp_path):
    file = tmp_path / "azure.csv"
    file.write_text(AZURE)
    return file


@pytest.fixture
def mooncake(tmp_path):
    file = tmp_path / "mooncake.jsonl"
    file.write_text(MOONCAKE)
    return file


def same_first(a, b, names=("tokens", "domain", "cached", "patience_s")):
    """Whether the requests that both have are the same in these arrays."""
    count = min(len(a), len(b))
    assert count > 100
    return [n for n in names if not np.array_equal(getattr(a, n)[:count], getattr(b, n)[:count])]


def test_requests_are_what_they_promise():
    found = make_requests(scene(domains=MIX, prefix={"share": 0.3}))
    assert len(found) == pytest.approx(10_000, abs=400)
    assert [getattr(found, n).dtype.name for n in ("arrival_s", "tokens", "domain", "cached")] == [
        "float64", "int64", "int32", "int64",
    ]  # fmt: skip
    assert (np.diff(found.arrival_s) >= 0).all()
    assert found.arrival_s[-1] <= 200.0
    assert found.domains == ("chat", "code")
    assert (found.domain == 0).mean() == pytest.approx(0.6, abs=0.02)
    assert found.shares.domains == found.domains
    with pytest.raises(ValueError, match="read-only"):
        found.tokens[0] = 3


def test_the_same_seed_gives_the_same_bytes_and_another_others():
    options = {
        "domains": {**MIX, "bursts": {"every_s": 20.0, "lasting_s": 5.0}},
        "prefix": {"share": 0.3},
        "serving": {"cancelled": {"share": 0.2, "after_s": 3.0}},
    }
    one, again, other = (make_requests(scene(seed, **options)) for seed in (4, 4, 5))
    assert one.digest() == again.digest()
    assert one.digest() != other.digest()
    for name in ("arrival_s", "tokens", "domain", "cached", "patience_s"):
        assert getattr(one, name).tobytes() == getattr(again, name).tobytes()
        assert not np.array_equal(getattr(one, name)[:5000], getattr(other, name)[:5000])


def test_the_bytes_are_these():
    """Other bytes mean other results from the same seed: only on purpose."""
    found = make_requests(scene(domains=MIX))
    assert found.tokens[:5].tolist() == [329, 5904, 956, 7530, 2953]
    assert found.domain[:8].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(
        found.arrival_s[:3], [0.059732058271428, 0.0721367057804727, 0.0727214181154026], rtol=1e-9
    )


def test_another_rate_moves_the_same_requests_in_time():
    options = {"domains": MIX, "prefix": {"share": 0.3}}
    options["serving"] = {"cancelled": {"share": 0.2, "after_s": 3.0}}
    slow = make_requests(scene(**options))
    fast = make_requests(scene(**options), rate_per_s=60.0)
    assert len(fast) == pytest.approx(1.2 * len(slow), rel=0.03)
    assert same_first(slow, fast) == []
    np.testing.assert_allclose(slow.arrival_s * 50.0, fast.arrival_s[: len(slow)] * 60.0)
    in_file = make_requests(scene(arrivals={"rate_per_s": 60.0}, **options))
    assert in_file.digest() == fast.digest()
    assert in_file.label == fast.label


def test_one_purpose_never_disturbs_another():
    plain = make_requests(scene(domains=MIX))
    bursts = {**MIX, "bursts": {"every_s": 20.0, "lasting_s": 5.0}}
    assert same_first(plain, make_requests(scene(domains=bursts))) == ["domain"]
    prefix = make_requests(scene(domains=MIX, prefix={"share": 0.3}))
    assert same_first(plain, prefix) == ["cached"]
    impatient = {"cancelled": {"share": 0.2, "after_s": 3.0}}
    assert same_first(plain, make_requests(scene(domains=MIX, serving=impatient))) == ["patience_s"]
    longer = make_requests(scene(domains=MIX, lengths={"mean": 3000.0}))
    assert same_first(plain, longer) == ["tokens"]
    assert np.array_equal(plain.arrival_s, longer.arrival_s)


def test_no_two_purposes_share_a_stream(monkeypatch):
    asked = []

    def spy(seed, purpose):
        asked.append(purpose)
        return stream(seed, purpose)

    for module in (bursts, lengths, requests, times):
        monkeypatch.setattr(module, "stream", spy)
    make_requests(
        scene(
            domains={**MIX, "bursts": {"every_s": 20.0, "lasting_s": 5.0}},
            prefix={"share": 0.3},
            serving={"cancelled": {"share": 0.2, "after_s": 3.0}},
        )
    )
    assert len(asked) == len(set(asked)) == 9
    draws = {stream(0, purpose).random() for purpose in asked}
    assert len(draws) == 9


def test_domains_follow_the_mix_at_their_arrival():
    change = {"at_s": 100.0, "mix": {"maths": 1.0}}
    found = make_requests(scene(domains={**MIX, "changes": [change]}))
    assert found.domains == ("chat", "code", "maths")
    before = found.arrival_s < 100.0
    assert set(found.domain[before].tolist()) == {0, 1}
    assert set(found.domain[~before].tolist()) == {2}


def test_prefixes_are_a_fraction_of_a_share():
    found = make_requests(scene(prefix={"share": 0.3, "fraction": 0.5}))
    hit = found.cached > 0
    assert hit.mean() == pytest.approx(0.3, abs=0.02)
    assert np.array_equal(found.cached[hit], found.tokens[hit] // 2)
    more = make_requests(scene(prefix={"share": 0.5, "fraction": 0.5}))
    assert (more.cached[hit] > 0).all()


def test_a_prompt_of_one_token_finds_nothing():
    lengths = {"kind": "fixed", "mean": 1.0}
    found = make_requests(scene(lengths=lengths, prefix={"share": 1.0, "fraction": 0.99}))
    assert not found.cached.any()


def test_a_share_gives_up_after_an_exponential_time():
    found = make_requests(scene(serving={"cancelled": {"share": 0.25, "after_s": 4.0}}))
    mortal = np.isfinite(found.patience_s)
    assert mortal.mean() == pytest.approx(0.25, abs=0.02)
    assert found.patience_s[mortal].mean() == pytest.approx(4.0, rel=0.08)
    assert np.isinf(make_requests(scene()).patience_s).all()


def test_a_recording_keeps_its_times_and_lengths(azure):
    found = make_requests(replayed(azure))
    np.testing.assert_allclose(found.arrival_s, [0.0, 0.052, 2.0, 10.0])
    assert found.tokens.tolist() == [4808, 3180, 110, 7433]
    assert not found.cached.any()
    assert found.label.startswith("recorded: arrivals and lengths of Azure")
    assert "SYNTHETIC" not in found.label
    assert str(azure.parent) not in found.label


def test_a_recording_is_stretched_and_cut(azure):
    faster = replayed(azure, arrivals={"file": str(azure), "rate_per_s": 3.0})
    np.testing.assert_allclose(make_requests(faster).arrival_s, [0.0, 0.0052, 0.2, 1.0])
    assert "stretched to 3/s" in make_requests(faster).label
    cut = make_requests(replayed(azure, duration_s=2.0))
    assert cut.tokens.tolist() == [4808, 3180, 110]


def test_recorded_arrivals_may_have_drawn_lengths(azure):
    found = make_requests(replayed(azure, lengths={"kind": "fixed", "mean": 50.0}))
    assert found.tokens.tolist() == [50] * 4
    assert "recorded: arrivals of Azure" in found.label
    assert "SYNTHETIC: fixed lengths" in found.label


def test_recorded_hashes_decide_the_prefix(mooncake):
    found = make_requests(replayed(mooncake, prefix={"recorded": True}))
    # Two blocks of 512; the last token of a prompt that is all known; a first block that is new.
    assert found.cached.tolist() == [0, 1024, 511, 0]
    assert "cache without bounds (assumed)" in found.label
    assert make_requests(replayed(mooncake)).cached.tolist() == [0, 0, 0, 0]
    cut = make_requests(replayed(mooncake, prefix={"recorded": True}, duration_s=3.0))
    assert cut.cached.tolist() == [0, 1024, 511]


def test_a_recording_without_hashes_needs_a_share(azure):
    with pytest.raises(InputError, match=r"prefix\.recorded: the recording has no hashes"):
        make_requests(replayed(azure, prefix={"recorded": True}))
    found = make_requests(replayed(azure, prefix={"recorded": True, "share": 1.0}))
    assert found.cached.tolist() == [2404, 1590, 55, 3716]
    assert "SYNTHETIC: prefix hits" in found.label


def test_drawn_requests_say_so():
    label = make_requests(scene(domains={"mix": "fullstack"})).label
    assert label == (
        "SYNTHETIC: Poisson arrivals at 50/s, lognormal lengths (mean 2000, sigma 1, 1 to 131072), "
        "fullstack mix of 12 domains"
    )


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, np.inf])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(InputError, match="no rate"):
        make_requests(scene(), rate_per_s=rate)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"domains": {"mix": "fulstack"}}, "did you mean 'fullstack'"),
        ({"domains": {"changes": [{"at_s": 1.0, "mix": "nope"}]}}, "unknown mix of domains"),
        ({"domains": {"mix": {"a": 0.0}}}, "all zero"),
        ({"prefix": {"recorded": True}}, "prefix.recorded needs a file"),
        ({"lengths": None}, "a Poisson process needs lengths"),
    ],
)
def test_scenarios_refuse_what_cannot_be_drawn(wrong, message):
    with pytest.raises(ScenarioError, match=message):
        scene(**wrong)


def test_hashes_do_not_fit_drawn_lengths(mooncake):
    with pytest.raises(ScenarioError, match="does not fit drawn lengths"):
        replayed(mooncake, prefix={"recorded": True}, lengths={"mean": 100.0})


def test_a_damaged_recording_is_named(azure):
    azure.write_text(AZURE.replace("3180", "0"))
    with pytest.raises(ArrivalsError, match=r"azure\.csv: line 3, ContextTokens: .*got '0'"):
        make_requests(replayed(azure))


GOOD = {
    "arrival_s": [0.0, 1.0],
    "tokens": [5, 6],
    "domain": [0, 0],
    "cached": [0, 5],
    "patience_s": [np.inf, 0.5],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arrival_s", [1.0, 0.5]),
        ("arrival_s", [-1.0, 0.5]),
        ("arrival_s", [0.0, np.nan]),
        ("arrival_s", [0.0, np.inf]),
        ("tokens", [5, 0]),
        ("domain", [0, 1]),
        ("domain", [-1, 0]),
        ("cached", [5, 0]),
        ("cached", [-1, 0]),
        ("patience_s", [np.nan, 1.0]),
        ("patience_s", [-1.0, 1.0]),
        ("tokens", [5, 6, 7]),
        ("arrival_s", [[0.0, 1.0]]),
    ],
)
def test_contradicting_arrays_are_refused(name, value):
    assert len(Requests(**GOOD, domains=("all",), label="two")) == 2
    with pytest.raises(InputError, match=name):
        Requests(**{**GOOD, name: value}, domains=("all",), label="two")


def test_the_arrays_of_the_caller_stay_writeable():
    mine = np.array([0.0, 1.0])
    Requests(**{**GOOD, "arrival_s": mine}, domains=("all",), label="two")
    mine[0] = 0.5


def test_the_digest_knows_every_array_and_the_domains_but_not_the_label():
    found = [Requests(**GOOD, domains=("all",), label=label).digest() for label in "ab"]
    assert found[0] == found[1]
    other = {"arrival_s": [0.0, 2.0], "tokens": [6, 6], "cached": [1, 5], "patience_s": [1, 0.5]}
    for name, value in other.items():
        found.append(Requests(**{**GOOD, name: value}, domains=("all",), label="a").digest())
    found += [Requests(**GOOD, domains=("a", "b"), label="a").digest()]
    found += [Requests(**{**GOOD, "domain": [0, 1]}, domains=("a", "b"), label="a").digest()]
    assert len(set(found)) == len(found) - 1
