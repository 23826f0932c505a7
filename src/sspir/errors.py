"""The errors that are meant for people."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


class NotApplicableError(UserError):
    """A model refuses a configuration by design, such as the ablation of a part it needs; a sweep skips such a run."""


class NotFiniteError(UserError):
    """Training has come to numbers that are not finite; a search prunes such a run."""
