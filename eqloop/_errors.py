"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input from outside the program: a file, an option, a puzzle, a checkpoint.

    The message is one line that says what is wrong, where, and what to do next. The command
    line prints it without a traceback and exits with code 2. It is a `ValueError`, so that a
    script may catch either.

    ```python
    >>> import eqloop
    >>> try:
    ...     eqloop.load("no-such-run")
    ... except eqloop.InputError as error:
    ...     print(error)
    no-such-run is not a run: there is no such folder

    ```
    """
