"""How processes that train together meet before JAX connects them. No JAX here.

If a process connects to the service of JAX with an id that is in use, the service takes it for a
restart and ends all processes. So the first process listens at the address of the coordinator
itself, as long as training lasts. Every other process connects there with its id, and waits until
all have connected. Only then the service of JAX starts, on another port of that address, which the
accepted processes receive. A later process with an id in use gets one line and changes nothing.

One line of ASCII in each message:

```
eqloop-join-1 PROCESSES ID PID HOST     from a process that connects
wait WHO                                to it: these processes are missing
no WHY                                  to it: refused
go PORT                                 to it: all are connected; the service of JAX has this port
```

Neither this protocol nor JAX authenticates processes: use the port on a trusted network only.
"""

import contextlib
import errno
import ipaddress
import itertools
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from .._errors import InputError

Say = Callable[[str], None]

GREETING = "eqloop-join-1"
LONGEST = 512
"""Maximum length of a line in bytes."""
SAYING = 10
"""Seconds between two messages about a wait."""
ANSWER = 10
"""Seconds within which the other side must send a line."""
_LOOK = 0.2
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"


class Address(NamedTuple):
    host: str
    port: int

    @staticmethod
    def parse(text: str, name: str) -> "Address":
        """Parse HOST:PORT; an IPv6 address is in brackets. **Raises** `InputError` about `name`."""
        host, _, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        ambiguous = ":" in bare and bare == host
        if not (bare and port.isascii() and port.isdecimal()) or ambiguous:
            raise InputError(f"{name} {text}: must be HOST:PORT, an IPv6 address in brackets")
        if not 0 < int(port[:6]) < 2**16:
            raise InputError(f"{name} {text}: must be HOST:PORT, with a port in 1 .. 65535")
        return Address(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Wait:
    """A wait with a time limit, and a message every ten seconds."""

    def __init__(self, address: Address, seconds: float, say: Say):
        self.address, self.seconds, self.say = address, seconds, say
        self.began = time.monotonic()
        self.next = self.began + 1  # no message for a short wait

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def go_on(self, who: str, remark: str = "") -> bool:
        """Whether time is left; `who` is missing."""
        now = time.monotonic()
        if now >= self.next:
            self.next = now + SAYING
            spent = f"{now - self.began:.0f} of {self.seconds:.0f} s"
            self.say(f"waiting for {who} at {self.address}{remark}: {spent}")
        return self.left > 0


class Meeting:
    """The listener of the first process: it listens only at `address`, until `close`.

    **Raises** `InputError` if that is not possible.
    """

    def __init__(self, address: Address, processes: int):
        self.address, self.processes = address, processes
        self._come: dict[int, str] = {}  # id -> the process that has it
        self._port: int | None = None  # of the service of JAX, once all are connected
        self._closed = False
        self._changed = threading.Condition()
        given = os.environ.get(_BIND)
        self._server = _listen(address if given is None else Address.parse(given, _BIND), self)
        self.ip = str(self._server.server_address[0])
        threading.Thread(target=self._server.serve_forever, args=(_LOOK,), daemon=True).start()

    def wait(self, seconds: float, say: Say) -> Address:
        """Wait until all processes are connected, and return the address for the service of JAX.

        **Raises** `InputError` if they do not connect within `seconds`.
        """
        local = ipaddress.ip_address(self.ip).is_loopback
        remark = f" ({self.ip}, which only this machine reaches)" if local else ""
        wait = _Wait(self.address, seconds, say)
        with self._changed:
            while missing := self._missing():
                if not wait.go_on(missing, remark):
                    raise InputError(_in_vain(missing, f"{self.address}{remark}", seconds))
                self._changed.wait(_LOOK)
            with socket.socket(self._server.address_family) as free:
                free.bind((self.ip, 0))
                service = Address(self.ip, free.getsockname()[1])
            self._port = service.port
            self._changed.notify_all()
        return service

    def close(self) -> None:
        self._closed = True
        self._server.shutdown()
        self._server.server_close()

    def _missing(self) -> str:
        """The missing processes, in words; "" if there is none."""
        count = self.processes - 1 - len(self._come)
        numbers = (n for n in range(1, self.processes) if n not in self._come)
        some = [str(n) for n in itertools.islice(numbers, 4)]
        more = f" and {count - len(some)} more" if count > len(some) else ""
        plural = "" if count == 1 else "es"
        return f"process{plural} {', '.join(some)}{more} of {self.processes}" if count else ""

    def _claim(self, processes: int, number: int, who: str) -> str:
        """Reserve an id for `who`; returns "" or the reason of a refusal."""
        if processes != self.processes:
            return f"process 0 was started with --num-processes {self.processes}, not {processes}"
        if not 0 < number < processes:
            return f"process {number} cannot come here"
        with self._changed:
            if number in self._come:
                now = "all have come already: " if self._port else ""
                return (
                    f"--process-id {number} is taken by {self._come[number]}; {now}give another "
                    "id, or for another training another port"
                )
            self._come[number] = who
            self._changed.notify_all()
        return ""

    def attend(self, visitor: "_Lines") -> None:
        """Serve a connection until the process is refused, accepted, or gone."""
        words = (visitor.next(ANSWER) or "").split(" ")
        if len(words) != 5 or words[0] != GREETING or not all(w.isdecimal() for w in words[1:4]):
            return  # not a process of eqloop
        number = int(words[2])
        if why := self._claim(int(words[1]), number, f"process {words[3]} on {words[4]}"):
            visitor.send(f"no {why}")
            return
        last_message = ""
        try:
            while not self._closed:
                with self._changed:
                    if self._port is None and self._missing() == last_message:
                        self._changed.wait(_LOOK)
                    missing, port = self._missing(), self._port
                if port is not None:
                    visitor.send(f"go {port}")
                    return
                if visitor.next(0.001) is not None:
                    raise ConnectionResetError  # a process sends nothing more: it has ended
                if missing and missing != last_message:
                    visitor.send(f"wait {missing}")
                    last_message = missing
        except OSError:
            with self._changed:
                if self._port is None:
                    del self._come[number]  # another process may take its place


def _in_vain(who: str, where: str, seconds: float) -> str:
    return (
        f"{who} did not come to {where} within {seconds:.0f} s: start all of them, or wait longer "
        "with --join-timeout"
    )


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # the last training may have left the address in TIME_WAIT
    daemon_threads = True
    block_on_close = False
    meeting: Meeting


class _Visit(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        with contextlib.suppress(OSError):  # a process may disconnect while it is refused
            self.server.meeting.attend(_Lines(self.request))


def _listen(address: Address, meeting: Meeting) -> _Server:
    error: OSError | None = None
    for family, where in _resolve(address):
        kind = type("_Server", (_Server,), {"address_family": family, "meeting": meeting})
        try:
            return kind(where, _Visit)
        except OSError as raised:
            error = error or raised
    assert error is not None
    if error.errno == errno.EADDRINUSE:
        why = (
            "this port is in use, by the same command or another program: choose another port for "
            "all processes"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        why = (
            "process 0 must run on the machine that has this address (where it has it only towards "
            f"the outside, set {_BIND}=HOST:PORT to one of its own)"
        )
    else:
        why = f"cannot listen there: {os.strerror(error.errno or 0)}"
    raise InputError(f"--coordinator {address}: {why}")


def _resolve(address: Address) -> list[tuple[int, tuple]]:
    try:
        addresses = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise InputError(f"--coordinator {address}: {address.host}: {why}") from None
    return [(family, where) for family, _, _, _, where in addresses]


def come(address: Address, processes: int, number: int, seconds: float, say: Say) -> Address:
    """Join as a process other than the first: connect to `address`, wait until all are connected,
    and return the address of the service of JAX. **Raises** `InputError` if it is refused or no
    process answers."""
    wait = _Wait(address, seconds, say)
    connection = _reach(wait)
    with connection:
        lines, who = _Lines(connection), None
        with contextlib.suppress(OSError):  # another program may not read
            lines.send(f"{GREETING} {processes} {number} {os.getpid()} {_host_name()}")
        while True:
            line = lines.next(ANSWER if who is None else _LOOK)
            kind, _, rest = (line or "").partition(" ")
            if kind == "wait":
                who = rest
            elif kind == "no":
                raise InputError(f"--coordinator {address}: {rest}")
            elif kind == "go" and rest.isdecimal() and 0 < int(rest) < 2**16:
                return Address(address.host, int(rest))
            elif line is None and who is not None:  # no news
                if not wait.go_on(who):
                    raise InputError(_in_vain(who, str(address), seconds))
            elif line == "" and who is not None:
                raise InputError(f"process 0 at {address} ended while it waited for {who}")
            else:
                raise InputError(
                    f"--coordinator {address}: what answers there is no eqloop train that is "
                    "process 0: choose another port for all processes"
                )


def _reach(wait: _Wait) -> socket.socket:
    _resolve(wait.address)  # do not wait for a name that does not exist
    why = ""
    while wait.go_on("process 0", f" ({why})" if why else ""):
        try:
            made = socket.create_connection(wait.address, timeout=max(0.1, min(5.0, wait.left)))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else "no answer"
        else:
            if made.getsockname() != made.getpeername():
                return made
            made.close()  # a local port without a listener may connect to itself
            why = os.strerror(errno.ECONNREFUSED)
        time.sleep(min(_LOOK, max(0.0, wait.left)))
    raise InputError(
        f"--coordinator {wait.address}: process 0 was not reached within {wait.seconds:.0f} s"
        f"{f' ({why})' if why else ''}: start it, see whether its port can be reached from here, "
        "or wait longer with --join-timeout"
    )


class _Lines:
    """A connection, line by line."""

    def __init__(self, connection: socket.socket):
        self.connection, self.pending = connection, b""

    def next(self, seconds: float) -> str | None:
        """The next line; None if none came in time; "" if the connection has ended or the line is
        not printable ASCII."""
        until = time.monotonic() + seconds
        while b"\n" not in self.pending:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.connection.settimeout(left)
            try:
                more = self.connection.recv(LONGEST)
            except TimeoutError:
                return None
            except OSError:
                more = b""
            self.pending += more
            if not more or len(self.pending) > LONGEST:
                return ""
        line, _, self.pending = self.pending.partition(b"\n")
        return line.decode() if line.isascii() and line.decode().isprintable() else ""

    def send(self, line: str) -> None:
        self.connection.settimeout(ANSWER)
        self.connection.sendall(line.encode("ascii", "replace") + b"\n")


def _host_name() -> str:
    return "".join(socket.gethostname().split())[:255] or "?"
