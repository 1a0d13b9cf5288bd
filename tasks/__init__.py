"""The tasks: each is one file, imported as `eqloop.tasks`."""

if __name__ != "eqloop.tasks":
    raise ImportError(f"import eqloop.tasks, not {__name__!r}")
