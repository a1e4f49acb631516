"""Tests of ultraep-sim; a package, so that one test module can import another's helpers."""
