"""Processes meet at a given address; a process that does not belong there gets one line and harms
no other. The sockets are real; all participants are in this process, without JAX."""

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from eqloop import InputError
from eqloop.cli import main
from eqloop.train import _rendezvous
from eqloop.train._rendezvous import GREETING, Address, Meeting, come


def silent(line: str) -> None:
    del line


@pytest.fixture
def address() -> Address:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", free.getsockname()[1])


@contextlib.contextmanager
def meeting(address: Address, processes: int) -> Iterator[Meeting]:
    held = Meeting(address, processes)
    try:
        yield held
    finally:
        held.close()


def arrive(address: Address, greeting: str) -> socket.socket:
    connection = socket.create_connection(address, timeout=20)
    connection.sendall(greeting.encode() + b"\n")
    return connection


def heard(connection: socket.socket) -> str:
    """Return the next line."""
    line = b""
    while not line.endswith(b"\n") and (more := connection.recv(1)):
        line += more
    return line.decode()


def in_background(work) -> Future:
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(work)
    finally:
        pool.shutdown(wait=False)


def test_all_are_let_in_when_all_are_there(address):
    with meeting(address, 3) as held:
        others = [
            in_background(lambda n=n: come(address, 3, n, 20, silent)) for n in (2, 1)
        ]  # the order does not matter
        service = held.wait(20, silent)
        assert service.host == "127.0.0.1"
        assert service.port != address.port
        assert [other.result(20) for other in others] == [service, service]


def test_who_waits_says_for_whom_and_how_long(address, monkeypatch):
    monkeypatch.setattr(_rendezvous, "SAYING", 0.5)
    lines, theirs = [], []
    with meeting(address, 8) as held:
        last_process = in_background(lambda: come(address, 8, 1, 20, theirs.append))
        with pytest.raises(InputError) as raised:
            held.wait(2.5, lines.append)
    where = re.escape(f"{address} (127.0.0.1, which only this machine reaches)")
    who = "processes 2, 3, 4, 5 and 2 more of 8"
    assert re.fullmatch(f"waiting for {who} at {where}: 1 of 2 s", lines[0])
    assert len(lines) == 3
    assert re.fullmatch(
        f"{who} did not come to {where} within 2 s: .*--join-timeout", str(raised.value)
    )
    with pytest.raises(InputError, match=f"process 0 at {address} ended while it waited for {who}"):
        last_process.result(20)
    assert theirs[0].startswith(f"waiting for {who} at {address}: 1 of 20 s")


def test_a_taken_id_is_refused_before_and_after_all_have_come(address):
    with meeting(address, 3) as held:
        first = arrive(address, f"{GREETING} 3 1 77 node1")
        assert heard(first) == "wait process 2 of 3\n"
        for number, processes, why in (
            (1, 3, "--process-id 1 is taken by process 77 on node1; give another id"),
            (2, 4, "process 0 was started with --num-processes 3, not 4"),
            (3, 3, "process 3 cannot come here"),
            (0, 3, "process 0 cannot come here"),
        ):
            with pytest.raises(InputError) as raised:
                come(address, processes, number, 20, silent)
            assert str(raised.value).startswith(f"--coordinator {address}: {why}")
        second = in_background(lambda: come(address, 3, 2, 20, silent))
        service = held.wait(20, silent)
        assert second.result(20) == service
        assert heard(first) == f"go {service.port}\n"
        first.close()
        for number in (1, 2):
            with pytest.raises(InputError, match=r"is taken by .*; all have come already: give"):
                come(address, 3, number, 20, silent)


def test_one_that_leaves_before_the_others_come_may_come_again(address):
    with meeting(address, 3) as held:
        first = arrive(address, f"{GREETING} 3 1 77 node1")
        assert heard(first) == "wait process 2 of 3\n"
        first.close()
        messages: list[str] = []
        returned = in_background(lambda: _until(lambda: come(address, 3, 1, 20, messages.append)))
        _until(
            lambda: None if any("for process 2 of 3" in line for line in messages) else _refused()
        )
        third = in_background(lambda: come(address, 3, 2, 20, silent))
        assert held.wait(20, silent) == returned.result(20) == third.result(20)


def _refused():
    raise InputError("not yet")


def _until(work):
    """Retry `work` until it is not refused: the meeting soon notices that a process has left."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return work()
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_what_is_not_one_of_us_harms_nobody(address):
    strange = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"\x00" * 100_000,
        b"\n",
        b"",
        f"{GREETING} 2 1 5\n".encode(),
        f"{GREETING} 2 -1 5 a\n".encode(),
        f"{GREETING} 2 {'9' * 400} 5 a\n".encode(),
        f"{GREETING} 2 1 5 \x1b[2J\n".encode(),
        f"{GREETING} 2 ² 5 a\n".encode(),
    )
    with meeting(address, 2) as held:
        idle = socket.create_connection(address)
        for sent in strange:
            with (
                socket.create_connection(address, timeout=20) as connection,
                contextlib.suppress(OSError),
            ):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                assert not heard(connection).startswith(("wait", "go"))
        assert held._missing() == "process 1 of 2"
        member = in_background(lambda: come(address, 2, 1, 20, silent))
        assert held.wait(20, silent) == member.result(20)
        idle.close()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", b"go 99999\n", b"wait \x1b[2J\n", b"", None]
)
def test_another_program_at_the_port(address, answer, monkeypatch):
    """The other program may also listen and say nothing, or hang up at once."""
    monkeypatch.setattr(_rendezvous, "ANSWER", 1)
    with socket.create_server(address) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                if answer is None:
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    return
                connection.recv(1000)
                connection.sendall(answer)
                if not answer:
                    connection.recv(1)

        replied = in_background(reply)
        with pytest.raises(InputError, match="what answers there is no eqloop train that is"):
            come(address, 2, 1, 20, silent)
        replied.result(20)


def test_it_listens_at_the_address_and_nowhere_else(address, monkeypatch):
    with meeting(address, 2):
        assert listening(address.port) == {"127.0.0.1"}
    with meeting(Address("localhost", address.port), 2):
        assert listening(address.port) <= {"127.0.0.1", "::1"}
    with meeting(Address("127.0.0.2", address.port), 2), meeting(address, 2):
        assert listening(address.port) == {"127.0.0.1", "127.0.0.2"}
    # If the address is that of a gateway, use another address of this machine.
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"127.0.0.3:{address.port}")
    with meeting(Address("192.0.2.1", address.port), 2):
        assert listening(address.port) == {"127.0.0.3"}


def listening(port: int) -> set[str]:
    """Return the addresses at which this machine listens on a port."""
    addresses = set()
    for file in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{file}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            where, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(where[n : n + 8])[::-1] for n in range(0, len(where), 8)]
                kind = socket.AF_INET if file == "tcp" else socket.AF_INET6
                addresses.add(socket.inet_ntop(kind, b"".join(words)))
    return addresses


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("node1:80", ("node1", 80)),
        ("[::1]:12345", ("::1", 12345)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        *((wrong, None) for wrong in ("", ":", "a", "a:", ":1", "::1", "a:0", "a:65536", "[]:1")),
        *((wrong, None) for wrong in ("::1:5", "a:-1", "a:1.5", "a:١", f"a:{'9' * 5000}", "a: 1")),
    ],
)
def test_addresses(text, parsed):
    if parsed is None:
        with pytest.raises(InputError, match="must be HOST:PORT"):
            Address.parse(text, "--coordinator")
    else:
        parsed_address = Address.parse(text, "--coordinator")
        assert tuple(parsed_address) == parsed
        assert str(parsed_address) == text


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def join(*options: str) -> int:
    return main(["train", "--num-processes", "2", "--join-timeout", "1", *options])


@pytest.mark.parametrize(
    ("number", "host", "message"),
    [
        ("0", "127.0.0.1", r"process 1 of 2 did not come to .* within 1 s: .*--join-timeout"),
        ("1", "127.0.0.1", r"process 0 was not reached within 1 s \(Connection refused\): start"),
        ("0", "192.0.2.1", r"process 0 must run on the machine that has this address"),
        ("0", "a" * 300, "not a host name"),
        ("1", "no such.host", "Name or service not known|Temporary failure in name resolution"),
    ],
)
def test_the_command_waits_no_longer_than_it_is_told(
    number, host, message, address, capsys, in_tmp
):
    where = ["--coordinator", f"{host}:{address.port}", "--process-id", number]
    assert join(*where) == 2
    assert re.search(rf"error: .*({message}).*\n$", capsys.readouterr().err)
    assert list(in_tmp.iterdir()) == []


def test_a_port_in_use_is_one_line(address, capsys, in_tmp):
    for taken in (lambda: socket.create_server(address), lambda: meeting(address, 2)):
        with taken():
            assert join("--coordinator", str(address), "--process-id", "0") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --coordinator {address}: this port is in use")
        assert error.count("\n") == 1


def test_control_c_ends_the_wait_at_once(address):
    """The processes are real; while they wait, they print for which process they wait."""
    command = [sys.executable, "-m", "eqloop.cli", "train", "--coordinator", str(address)]
    two = [
        subprocess.Popen(
            [*command, "--num-processes", "3", "--process-id", number],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    try:
        # While the first process waits, the second waits for a third; then the first waits for
        # both.
        for child, line in zip(
            reversed(two), ("waiting for process 2 of 3 at ", "waiting for "), strict=True
        ):
            assert child.stderr is not None
            while line not in (message := child.stderr.readline()):
                assert message.startswith("waiting for process"), message
            child.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, remaining = child.communicate(timeout=20)
            assert time.monotonic() - began < 10
            assert child.returncode == 130
            assert all(message.startswith("waiting for ") for message in remaining.splitlines())
    finally:
        for child in two:
            child.kill()
            child.communicate()
