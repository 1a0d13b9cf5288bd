"""`python -m eqloop.cli`: the same as `eqloop`."""

import sys

from ._main import main

sys.exit(main())
