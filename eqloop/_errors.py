"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input from outside the program: a file, an option, a puzzle, a checkpoint.

    The message is one line that says what is wrong, where, and what to do next. The command
    line prints it without a traceback and exits with code 2.
    """
