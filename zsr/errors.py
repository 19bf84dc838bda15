"""Mishaps that a user can act on. Stages show them as one line and exit with 1, without a traceback."""


class StudyError(Exception):
    """One sentence that names the key or file, the value and the choices or the way out."""


class ParamError(StudyError):
    """A mistake in params.yaml."""


class Diverged(StudyError):
    """A training whose loss or gradient is no longer finite."""
