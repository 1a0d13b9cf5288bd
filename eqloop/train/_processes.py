"""Several processes that train one run: how they meet, speak, agree, and part.

The first process writes and the others only compute. An error that only one process can see (a
file that is missing on one machine) goes through `raise_on_all`, so that no process waits for one
that has exited.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from .._arrays import is_array
from .._errors import InputError
from ._rendezvous import SAYING, Address, Meeting, Say, come

T = TypeVar("T")

JOINING = 120
"""Seconds that processes wait for each other at the beginning: not all nodes start at once."""
CONNECTING = 60
"""Seconds in which JAX connects those that have met."""
HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as lost."""
PARTING = 10
"""Seconds that a process waits, where it ends before its time, for the others to do so."""

_LOST_PROCESS = re.compile(r"gloo|nccl|rccl|coordination service|heartbeat", re.IGNORECASE)
"""What JAX says, in errors of several types, where another process no longer answers."""


class LostProcess(ConnectionError):
    """Another process no longer answers; one line: which one, where, and how to go on."""


def is_multiprocess() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main_process() -> bool:
    """Whether this process is the one that writes: the only one, or the first of several."""
    return not is_multiprocess() or jax.process_index() == 0


def join_processes(
    coordinator: str | None,
    processes: int | None,
    number: int | None,
    *,
    timeout: int = JOINING,
    say: Say = lambda line: None,
) -> None:
    """Become one of several processes that train together; without arguments only where SLURM or
    Open MPI has started more than one. Call it before anything is computed.

    **Arguments:**

    - `coordinator`: HOST:PORT on which the first process is to be reached by all; it listens there
      and nowhere else.
    - `processes`, `number`: how many there are, and which this one is, from 0.
    - `timeout`: seconds to wait for the others.
    - `say`: called with one line every ten seconds of waiting.

    **Raises** `InputError` for arguments that make no sense, an id or port that is taken, and where
    not all have come in time.
    """
    given = {"coordinator": coordinator, "num-processes": processes, "process-id": number}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        assert coordinator is not None
        assert processes is not None
        assert number is not None
        address = Address.parse(coordinator, "--coordinator")
        if processes < 1:
            raise InputError(f"--num-processes {processes}: must be at least 1")
        if not 0 <= number < processes:
            raise InputError(f"--process-id {number}: must be in 0 .. {processes - 1}")
        if processes > 1:
            _meet(address, processes, number, timeout, say)
    elif len(missing) < len(given):
        raise InputError(
            f"--{missing[0]} is missing: it goes with --coordinator, --num-processes, --process-id"
        )
    elif (processes := _launched()) > 1:
        _connect(processes, "the address that the launcher gives", timeout, say)


def _launched() -> int:
    """How many processes SLURM or Open MPI has started, of which this is one."""
    processes = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    if processes > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:  # as of Open MPI 5
        raise InputError(
            f"Open MPI has started {processes} processes and does not say where the first is: give "
            "each --coordinator HOST:PORT --num-processes $OMPI_COMM_WORLD_SIZE "
            "--process-id $OMPI_COMM_WORLD_RANK"
        )
    if processes > 1:
        return processes
    # Of the step, not of the job: a plain command in an allocation of many tasks is alone.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


_meeting: Meeting | None = None
"""What the first process holds until all part."""


def _meet(address: Address, processes: int, number: int, timeout: int, say: Say) -> None:
    global _meeting
    # Left to itself JAX asks the launcher too, and keeps all devices but one away.
    found: dict[str, Any] = {"process_id": number, "cluster_detection_method": "deactivate"}
    if number == 0:
        _meeting = Meeting(address, processes)
        try:
            service = _meeting.wait(timeout, say)
        except BaseException:
            _meeting.close()
            raise
        found["coordinator_bind_address"] = str(service)
    else:
        service = come(address, processes, number, timeout, say)
    # By the name that was given: a certificate, where JAX is set to use them, is of this name.
    where = str(Address(address.host, service.port))
    _connect(processes, where, CONNECTING, say, coordinator_address=where, **found)


def _connect(processes: int, where: str, timeout: int, say: Say, **found: Any) -> None:
    install_abort_handler(
        lambda: (
            f"the {processes} processes were not all connected at {where} within {timeout} s: is "
            "every one running, and can that port of the first be reached by the others?"
        ),
        code=2,
    )
    # JAX would catch SIGTERM itself; here the training loop does, and takes SIGINT alike.
    jax.config.update("jax_enable_preemption_service", False)
    connected = threading.Event()
    others = f"waiting for all {processes} processes at {where}"

    def wait() -> None:
        began = time.monotonic()
        while not connected.wait(SAYING):
            say(f"{others}: {time.monotonic() - began:.0f} of {timeout} s")

    threading.Thread(target=wait, daemon=True).start()
    # JAX waits outside of Python, where no KeyboardInterrupt would come through.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            num_processes=processes,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PARTING,
            **found,
        )
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"the first process cannot be reached at {where}: {why}") from None
    finally:
        connected.set()
        signal.signal(signal.SIGINT, interrupt)
    # Nothing of JAX is asked in here: it may have been taken down, and would start again.
    install_abort_handler(
        lambda: (
            f"JAX has ended this process, one of {processes} (see above), as it does when another "
            f"one is lost, {_places[-1]()}"
        )
    )
    # Gloo announces its connections on standard output, where only answers belong.
    sys.stdout.flush()
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(answers, "w", encoding=sys.stdout.encoding, closefd=False)


def shutdown() -> None:
    """Wait until all processes have come to this point, and part: from here each is alone."""
    if is_multiprocess():
        gather_texts("")
        jax.distributed.shutdown()
    if _meeting is not None:
        _meeting.close()


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for the others, which an ordinary exit would do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def gather_texts(text: str) -> list[str]:
    """What each process says, in order; returns when all have spoken."""
    if not is_multiprocess():
        return [text]
    said = text.encode()
    with report_lost_process():
        sizes = process_allgather(np.asarray(len(said), np.int32))
        room = -(-int(sizes.max()) // 4096) * 4096  # few sizes, since each is compiled for
        padded = np.frombuffer(said.ljust(room, b" "), np.uint8)
        rows = process_allgather(padded) if room else np.zeros((len(sizes), 0), np.uint8)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def raise_on_all(make: Callable[[], T]) -> T:
    """`make()`, unless it raises `InputError` in one process: then all raise it."""
    if not is_multiprocess():
        return make()
    made: Any = None
    error = None
    try:
        made = make()
    except InputError as raised:
        error = str(raised)
    for number, said in enumerate(gather_texts(json.dumps(error))):
        if (told := json.loads(said)) is not None:
            raise InputError(told if number == 0 else f"process {number}: {told}")
    return made


def broadcast_json(make: Callable[[], T]) -> T:
    """What `make()`, called in the first process only, returns there (as JSON) or raises."""
    if not is_multiprocess():
        return make()
    return json.loads(
        gather_texts(raise_on_all(lambda: json.dumps(make()) if is_main_process() else ""))[0]
    )


def broadcast_arrays(tree: T) -> T:
    """The arrays of the first process in place of those here, which are as large."""
    if not is_multiprocess():
        return tree
    arrays, rest = eqx.partition(tree, is_array)
    host = jax.tree.map(np.asarray, arrays)
    # As bytes: they are summed over the processes, and -0.0 + 0.0 is 0.0.
    sent = jax.tree.map(lambda x: np.ascontiguousarray(x).reshape(-1).view(np.uint8), host)
    with report_lost_process():
        got = broadcast_one_to_all(sent)
    return eqx.combine(
        jax.tree.map(lambda x, old: jnp.asarray(x.view(old.dtype).reshape(old.shape)), got, host),
        rest,
    )


_places: list[Callable[[], str]] = [lambda: "before or after training"]
"""Callbacks that describe the current position, for `LostProcess`; the innermost is used."""


@contextlib.contextmanager
def report_lost_process(place: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn what JAX raises where another process is lost into `LostProcess`.

    - `place`: returns "at step 3: how to go on"; called when a process is lost. By default the
        `place` of the enclosing context.
    """
    _places.append(place or _places[-1])
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not (is_multiprocess() and _LOST_PROCESS.search(str(error))):
            raise
        count, own = jax.process_count(), jax.process_index()
        who = f"process {1 - own} of 2" if count == 2 else f"another of the {count} processes"
        raise LostProcess(f"{who} was lost {_places[-1]()}") from error
    finally:
        _places.pop()


_abort_handlers: list[Any] = []  # C calls what is in here


def install_abort_handler(line: Callable[[], str], code: int = 1) -> None:
    """Have `abort()` end in one line and an exit code.

    JAX has a thread that hears of a lost process and aborts this one, sometimes before and
    sometimes after the step has failed; it cannot be told not to. A handler of Python's own would
    come too late: it runs in the main thread, which may be waiting for the process that is lost.
    """
    if os.name != "posix":
        return

    def speak(number: int) -> None:
        os.write(2, f"error: {line()}\n".encode())
        os._exit(code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    _abort_handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
