"""Memory that commands keep, in processes of their own: malloc takes its settings at the start."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt"
)

CHILD = """
import resource, sys
from eqloop.cli._malloc import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax, jax.numpy as jnp
u = jnp.ones(4096)
f = jax.jit(lambda x: (u[:, None] * u + x) @ u)  # its matrix takes 64 MiB
def call():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(1.0).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([call() for _ in range(20)][10:]))
"""


def page_faults(mode: str, **variables: str) -> int:
    """Pages of 4 KiB (or more) that the kernel gives to a program that was called before."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, mode],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_program_that_is_called_again_gets_the_memory_of_its_last_call():
    assert page_faults("keep") < 200
    assert page_faults("leave") > 5_000


def test_a_setting_of_the_user_counts():
    assert page_faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > 5_000
