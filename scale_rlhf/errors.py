"""Errors that a person is meant to read. The command line prints their message alone, without a traceback."""

from scale_rlhf.redaction import printable, without_secrets


class UserError(Exception):
    """Something that the user can mend. The message says where, what was expected, and what to do.

    Messages quote what data, services and other libraries hold, so whatever they quote, they show no secret, and nothing
    that a terminal would obey.
    """

    def __str__(self) -> str:
        return printable(without_secrets(super().__str__()))


class ConfigError(UserError):
    """A key of the configuration is unknown, of the wrong type, or asks for what cannot be."""


class DataError(UserError):
    """A file of data is missing, malformed or lacks a column; the message names the file and the line."""


class RunError(UserError):
    """A run cannot start or go on; the message says who, at what, for how long, and what to do."""


class DiskError(RunError):
    """A file cannot be written; see `disk.writing`."""
