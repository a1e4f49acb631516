"""The commands, one file each; `ultraep_sim.cli` puts them together."""
