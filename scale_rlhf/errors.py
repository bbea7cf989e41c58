"""Errors that a person is meant to read. The command line prints their message alone, without a traceback."""


class UserError(Exception):
    """Something that the user can mend. The message says where, what was expected, and what to do."""


class ConfigError(UserError):
    """A key of the configuration is unknown, of the wrong type, or asks for what cannot be."""


class DataError(UserError):
    """A file of data is missing, malformed or lacks a column; the message names the file and the line."""


class RunError(UserError):
    """A run cannot start or go on; the message says who, at what, for how long, and what to do."""
