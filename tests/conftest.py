"""Options of the whole test suite."""


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "the contract of balancing policies")
    group.addoption(
        "--policy",
        action="append",
        metavar="NAME",
        help="run tests/conformance on this policy only (repeatable); default: every one there is",
    )
    group.addoption(
        "--policy-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option for the policies under test (repeatable); VALUE is JSON, else text",
    )
