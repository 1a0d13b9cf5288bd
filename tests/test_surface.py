"""What `import eqloop` offers: rooms by name, models in one line, weights in one file."""

import subprocess
import sys
from pathlib import Path

import jax.random as jr

import eqloop

RELEASE = Path(__file__).parents[1] / "benchmarks" / "release"


def small(**options) -> eqloop.LoopedTransformer:
    return eqloop.LoopedTransformer((4, 4), 3, 5, width=16, heads=2, **options, key=jr.key(1))


def test_rooms_open_by_name_and_only_when_they_are_asked_for():
    code = """
import sys, types, eqloop
assert "jax" not in sys.modules
eqloop.run, eqloop.tasks
assert "jax" not in sys.modules
for name in "train evaluate audit tasks report claims sweep run stability nn interop".split():
    assert isinstance(getattr(eqloop, name), types.ModuleType), name
assert isinstance(eqloop.train, types.ModuleType)
"""
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
