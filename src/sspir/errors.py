"""The errors that are meant for people."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class NotApplicableError(UserError):
    """What a model refuses by design, such as an ablation of a part that it needs: a sweep passes it over."""
