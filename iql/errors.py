"""The one exception that reaches a user as a single line."""


class UserError(Exception):
    """Something the user can mend: the message says what, where and what to do.

    Entry points print it as one line without a traceback and exit with code 1.
    """
