"""The commands: one file each, imported as `eqloop.cli`."""

if __name__ != "eqloop.cli":
    raise ImportError(f"import eqloop.cli, not {__name__!r}")

from ._main import main as main
