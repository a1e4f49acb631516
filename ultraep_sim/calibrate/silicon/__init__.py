"""Public kernel tables of ``aiconfigurator-core`` (Apache-2.0): readers, one file a table kind."""
