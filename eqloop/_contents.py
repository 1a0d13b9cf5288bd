"""Every public name of `eqloop`, in one table; `eqloop/__init__.py` loads it on first use."""

from . import interop as interop
from . import nn as nn
