"""The one error that is meant for people."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """
