"""The contract of a balancing policy as tests: `pytest tests/conformance --policy NAME`."""
