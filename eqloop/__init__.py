"""Looped transformers whose loop is solved, differentiated and examined by parts you can swap."""

from ._errors import InputError as InputError

__version__ = "0.1.0"
