"""Several processes that train one run: connect, exchange messages, agree, and disconnect.

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
"""Seconds that processes wait for each other at the start, since nodes start at different times."""
CONNECTING = 60
"""Seconds that JAX has to connect the processes that have met."""
HEARTBEAT = 30
"""Seconds without a heartbeat after which a process counts as lost."""
PARTING = 10
"""Seconds that a process that ends early waits for the others to end."""

_LOST_PROCESS = re.compile(r"gloo|nccl|rccl|coordination service|heartbeat", re.IGNORECASE)
"""Texts in errors of JAX, of several types, if another process no longer answers."""


class LostProcess(ConnectionError):
    """Another process no longer answers; one line: which one, where, and how to go on."""


def is_multiprocess() -> bool:
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main_process() -> bool:
    """Whether this process is the one that writes.

    **Returns** True for the only process, and for the first of several.

    ```python
    >>> import eqloop
    >>> eqloop.train.is_main_process()
    True

    ```
    """
    return not is_multiprocess() or jax.process_index() == 0


def join_processes(
    coordinator: str | None,
    processes: int | None,
    number: int | None,
    *,
    timeout: int = JOINING,
    say: Say = lambda line: None,
) -> None:
    """Become one of several processes that train together.

    Without arguments it does so only if SLURM or Open MPI has started several. Call it before any
    computation.

    **Arguments:**

    - `coordinator`: HOST:PORT at which all processes can reach the first one; it listens only
      there.
    - `processes`: number of processes.
    - `number`: number of this process, from 0.
    - `timeout`: seconds to wait for the others.
    - `say`: called with one line every ten seconds of waiting.

    **Raises** `InputError` for invalid arguments, an id or port that is in use, and if not all
    processes arrive in time.

    ```python
    >>> import eqloop
    >>> eqloop.train.join_processes("localhost:1234", 1, 0)  # alone: there is nothing to wait for

    ```
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
    """The number of processes, including this one, that SLURM or Open MPI has started."""
    processes = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))
    if processes > 1 and "OMPI_MCA_orte_hnp_uri" not in os.environ:  # as of Open MPI 5
        raise InputError(
            f"Open MPI has started {processes} processes and does not say where the first is: give "
            "each --coordinator HOST:PORT --num-processes $OMPI_COMM_WORLD_SIZE "
            "--process-id $OMPI_COMM_WORLD_RANK"
        )
    if processes > 1:
        return processes
    # Count the tasks of the step, not of the job: a plain command in an allocation is alone.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


_meeting: Meeting | None = None
"""The listener of the first process, open until all disconnect."""


def _meet(address: Address, processes: int, number: int, timeout: int, say: Say) -> None:
    global _meeting
    # Otherwise JAX also asks the launcher, and hides all devices but one.
    options: dict[str, Any] = {"process_id": number, "cluster_detection_method": "deactivate"}
    if number == 0:
        _meeting = Meeting(address, processes)
        try:
            service = _meeting.wait(timeout, say)
        except BaseException:
            _meeting.close()
            raise
        options["coordinator_bind_address"] = str(service)
    else:
        service = come(address, processes, number, timeout, say)
    # Use the given name, since certificates, if JAX uses them, are for this name.
    where = str(Address(address.host, service.port))
    _connect(processes, where, CONNECTING, say, coordinator_address=where, **options)


def _connect(processes: int, where: str, timeout: int, say: Say, **options: Any) -> None:
    install_abort_handler(
        lambda: (
            f"the {processes} processes were not all connected at {where} within {timeout} s: is "
            "every one running, and can that port of the first be reached by the others?"
        ),
        code=2,
    )
    # The training loop handles SIGTERM and SIGINT itself, so JAX must not.
    jax.config.update("jax_enable_preemption_service", False)
    connected = threading.Event()
    others = f"waiting for all {processes} processes at {where}"

    def wait() -> None:
        began = time.monotonic()
        while not connected.wait(SAYING):
            say(f"{others}: {time.monotonic() - began:.0f} of {timeout} s")

    threading.Thread(target=wait, daemon=True).start()
    # JAX waits outside of Python, where KeyboardInterrupt is not delivered.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        jax.distributed.initialize(
            num_processes=processes,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=PARTING,
            **options,
        )
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"the first process cannot be reached at {where}: {why}") from None
    finally:
        connected.set()
        signal.signal(signal.SIGINT, interrupt)
    # Do not call JAX here: it may have been shut down, and would start again.
    install_abort_handler(
        lambda: (
            f"JAX has ended this process, one of {processes} (see above), as it does when another "
            f"one is lost, {_places[-1]()}"
        )
    )
    # Gloo prints its connections to standard output, which is reserved for results.
    sys.stdout.flush()
    answers = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(answers, "w", encoding=sys.stdout.encoding, closefd=False)


def shutdown() -> None:
    """Wait until all processes reach this point, then disconnect them. A process alone goes on.

    ```python
    >>> import eqloop
    >>> eqloop.train.shutdown()

    ```
    """
    if is_multiprocess():
        gather_texts("")
        jax.distributed.shutdown()
    if _meeting is not None:
        _meeting.close()


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for the others, as an ordinary exit would.

    **Arguments:**

    - `code`: the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def gather_texts(text: str) -> list[str]:
    """The text of each process, in order; returns when all have sent theirs."""
    if not is_multiprocess():
        return [text]
    content = text.encode()
    with report_lost_process():
        sizes = process_allgather(np.asarray(len(content), np.int32))
        room = -(-int(sizes.max()) // 4096) * 4096  # few sizes, since each one needs a compilation
        padded = np.frombuffer(content.ljust(room, b" "), np.uint8)
        rows = process_allgather(padded) if room else np.zeros((len(sizes), 0), np.uint8)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def raise_on_all(make: Callable[[], T]) -> T:
    """Call a function whose error all processes must see: none waits for one that has ended.

    **Arguments:**

    - `make`: called in each process.

    **Returns** what `make` returns.

    **Raises** `InputError` in all processes if `make` raises it in one. Any other error is raised
    in its own process alone.

    ```python
    >>> import eqloop
    >>> eqloop.train.raise_on_all(lambda: 3)
    3

    ```
    """
    if not is_multiprocess():
        return make()
    result: Any = None
    error = None
    try:
        result = make()
    except InputError as raised:
        error = str(raised)
    for number, answer in enumerate(gather_texts(json.dumps(error))):
        if (message := json.loads(answer)) is not None:
            raise InputError(message if number == 0 else f"process {number}: {message}")
    return result


def broadcast_json(make: Callable[[], T]) -> T:
    """Call a function in the first process only, and send its result to all.

    **Arguments:**

    - `make`: called in the first process; its result must be JSON-ready.

    **Returns** the result, in all processes; several processes get it as JSON has it.

    **Raises** `InputError` in all processes if `make` raises it.

    ```python
    >>> import eqloop
    >>> eqloop.train.broadcast_json(lambda: {"step": 900})
    {'step': 900}

    ```
    """
    if not is_multiprocess():
        return make()
    return json.loads(
        gather_texts(raise_on_all(lambda: json.dumps(make()) if is_main_process() else ""))[0]
    )


def broadcast_arrays(tree: T) -> T:
    """The arrays of the first process; `arrays` here have the same shapes."""
    if not is_multiprocess():
        return tree
    arrays, rest = eqx.partition(tree, is_array)
    host = jax.tree.map(np.asarray, arrays)
    # Send bytes: the values are summed over the processes, and -0.0 + 0.0 is 0.0.
    sent = jax.tree.map(lambda x: np.ascontiguousarray(x).reshape(-1).view(np.uint8), host)
    with report_lost_process():
        received = broadcast_one_to_all(sent)
    return eqx.combine(
        jax.tree.map(
            lambda x, old: jnp.asarray(x.view(old.dtype).reshape(old.shape)), received, host
        ),
        rest,
    )


_places: list[Callable[[], str]] = [lambda: "before or after training"]
"""Callbacks that describe the current position, for `LostProcess`; the innermost is used."""


@contextlib.contextmanager
def report_lost_process(place: Callable[[], str] | None = None) -> Iterator[None]:
    """Convert the errors of JAX about a lost process to `LostProcess`.

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


_abort_handlers: list[Any] = []  # C calls these, so they must stay alive


def install_abort_handler(line: Callable[[], str], code: int = 1) -> None:
    """Make `abort()` end with one line and an exit code.

    A thread of JAX notices a lost process and aborts this one, sometimes before and sometimes after
    the step has failed; this cannot be turned off. A Python handler would come too late: it runs in
    the main thread, which may be waiting for the lost process.
    """
    if os.name != "posix":
        return

    def speak(number: int) -> None:
        os.write(2, f"error: {line()}\n".encode())
        os._exit(code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    _abort_handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
