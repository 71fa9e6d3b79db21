"""The one exception that means "the user asked for something impossible"."""


class UserError(ValueError):
    """Bad input from outside: one line that says what was wrong and what is legal.

    Library callers catch it as a `ValueError`; the command line prints the message alone and exits
    with code 2.
    """
