"""The error of recording, apart from the modules that need torch."""

from ultraep_sim.errors import InputError


class RecordError(InputError):
    """A model, batch or option that cannot be recorded."""
