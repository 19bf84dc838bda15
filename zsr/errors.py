"""Errors that a user can act on. Stages show the error as one line and exit with 1, without a traceback."""


class StudyError(Exception):
    """An error whose message is one sentence with the key or file, the value, and the choices or the remedy."""


class ParamError(StudyError):
    """A mistake in params.yaml."""


class Diverged(StudyError):
    """The loss or the gradient of a training is no longer finite."""
