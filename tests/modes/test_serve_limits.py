"""The mode `serve`: clients that send nothing, or too slowly, or too much, stop no others."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import types

import pytest
from support import needs
from support.mean_colour_model import config, png, use_colours, write_gallery

from batnet_jax.inference.search import Searcher
from batnet_jax.modes import serve

needs.installed("starlette", "uvicorn")
from batnet_jax.modes.serve import access, app, connections, server  # noqa: E402
from batnet_jax.modes.serve.connections import Connection, Connections, Phase  # noqa: E402
from batnet_jax.modes.serve.turns import Turns, client_at  # noqa: E402

RED = png((200, 8, 8))
POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
SEARCH = POST + b"Content-Length: %d\r\n\r\n%s" % (len(RED), RED)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SECONDS = 60
"""No answer takes as long, on any machine."""


@pytest.fixture
def searcher(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    return Searcher(config(), tmp_path / "run", write_gallery(tmp_path / "gallery"))


@contextlib.contextmanager
def running(searcher, limits):
    """Yields a function that connects to a server, and the server."""
    listener = serve.listen("127.0.0.1", 0)
    served = server.Server(app.make_app(searcher, access.HostNames("127.0.0.1")), limits)
    thread = threading.Thread(target=served.run, kwargs={"sockets": [listener]})
    thread.start()
    address = listener.getsockname()
    with contextlib.ExitStack() as stack:
        try:
            yield lambda: stack.enter_context(socket.create_connection(address, SECONDS)), served
        finally:
            served.should_exit = True
            thread.join()


def read_all(connection):
    """What the server sends until it ends the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answer(connection, request):
    """The status of the next answer, and its JSON."""
    connection.sendall(request)
    text = b""
    while b"\r\n\r\n" not in text or not text.endswith(b"}"):
        part = connection.recv(65536)
        assert part, f"cut off after {text!r}"
        text += part
    head, _, body = text.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


HINDRANCES = {
    "silent": b"",
    "a slow head": b"GET / HTTP/1.1\r\nHost: local",
    "an upload that never ends": CHUNKED + b"5\r\nabcde\r\n",
    "an upload that stops": POST + b"Content-Length: 1000\r\n\r\nabc",
    "an answer to one who sends on": CHUNKED.replace(b"/search", b"/nowhere") + b"5\r\nabcde\r\n",
}


@pytest.mark.parametrize("sent", HINDRANCES.values(), ids=HINDRANCES)
@pytest.mark.parametrize("limits", [(1000, 4), (4, 1000)], ids=["of one client", "in all"])
def test_who_keeps_the_server_waiting_makes_room(searcher, sent, limits):
    with running(searcher, Connections(*limits)) as (connect, _):
        for _ in range(12):
            connect().sendall(sent)
        for _ in range(3):
            status, found = answer(connect(), SEARCH)
            assert (status, len(found["hits"])) == (200, 5)


def test_the_oldest_makes_room(searcher):
    with running(searcher, Connections(most_of_client=3)) as (connect, _):
        old, young = connect(), connect()
        assert answer(young, SEARCH)[0] == 200
        connect()
        assert answer(connect(), SEARCH)[0] == 200
        assert read_all(old) == b""
        assert answer(young, SEARCH)[0] == 200


@pytest.mark.parametrize(
    ("phase", "sent", "status"),
    [
        (Phase.HEAD, b"", b""),
        (Phase.HEAD, b"GET / HTTP/1.1\r\nHost: local", b""),
        (Phase.BODY, CHUNKED + b"5\r\nabcde\r\n", b""),
        (Phase.HEAD, CHUNKED.replace(b"/search", b"/nowhere") + b"5\r\nabcde\r\n", b"404"),
    ],
)
def test_each_phase_has_a_deadline(searcher, phase, sent, status):
    """Also if the client goes on sending."""
    limits = Connections(seconds={**connections.SECONDS, phase: 0.3})
    with running(searcher, limits) as (connect, _):
        connection = connect()
        connection.sendall(sent)
        stopped = threading.Event()

        def trickle():
            with contextlib.suppress(OSError):
                while sent and not stopped.wait(0.02):
                    connection.sendall(b"1\r\na\r\n" if phase is Phase.BODY or status else b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert read_all(connection)[9:12] == status
        finally:
            stopped.set()
            thread.join()


def test_who_takes_no_answers_is_cut_off(searcher):
    """Requests are sent without an end, and no answer is read."""
    limits = Connections(seconds={**connections.SECONDS, Phase.ANSWER: 0.3, Phase.HEAD: 0.3})
    with running(searcher, limits) as (connect, _):
        connection, request = connect(), b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with pytest.raises(ConnectionError):
            connection.sendall(request * 10**6)


def test_busy_is_said_when_all_are_worked_on(searcher):
    begun, go_on, find = threading.Event(), threading.Event(), searcher.search

    def search(*arguments):
        begun.set()
        assert go_on.wait(SECONDS)
        return find(*arguments)

    searcher.search = search
    limits = Connections(most_of_client=2)
    with running(searcher, limits) as (connect, _):
        first, second = connect(), connect()
        first.sendall(SEARCH)
        assert begun.wait(SECONDS)
        second.sendall(SEARCH)
        while [one.phase for one in limits._all.values()] != [Phase.WORK] * 2:
            time.sleep(0.01)
        third = read_all(connect())
        go_on.set()
        assert third.startswith(b"HTTP/1.1 503")
        for name, value in access.HEADERS.items():
            assert f"{name}: {value}\r\n".encode() in third
        assert json.loads(third.partition(b"\r\n\r\n")[2]) == {"error": connections.BUSY}
        assert answer(first, b"")[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        CHUNKED + b"Z\r\n",
        b"\x16\x03\x01\2\0\1\r\n\r\n",
    ],
)
def test_what_is_no_request(searcher, sent, caplog):
    with running(searcher, Connections()) as (connect, _):
        connection = connect()
        connection.sendall(sent)
        text = read_all(connection)
        assert text.startswith(b"HTTP/1.1 400")
        for name, value in access.HEADERS.items():
            assert f"{name}: {value}\r\n".encode() in text
    assert caplog.records == []


@pytest.mark.parametrize("sent", [*HINDRANCES.values(), SEARCH], ids=[*HINDRANCES, "a search"])
def test_the_end_waits_for_no_client(searcher, sent, caplog):
    """`running` joins the server's thread."""
    with running(searcher, Connections()) as (connect, _):
        assert answer(connect(), SEARCH)[0] == 200
        for _ in range(5):
            connect().sendall(sent)
    assert caplog.records == []


class Line:
    """A transport of nowhere."""

    def __init__(self, address, port):
        self.peer, self.ended = (address, port), False

    def get_extra_info(self, _):
        return self.peer

    def abort(self):
        self.ended = True


def test_the_client_with_most_connections_makes_room():
    async def check():
        limits = Connections(most=6, most_of_client=5)
        few = [Line("10.0.0.1", port) for port in range(2)]
        many = [Line("10.0.0.2", port) for port in range(4)]
        for line in (*few, *many, Line("10.0.0.3", 1)):
            assert limits.open(line) is not None
        assert [line.ended for line in (*few, *many)] == [False] * 2 + [True] + [False] * 3

    asyncio.run(check())


def test_a_client_of_ipv6_is_its_network():
    assert client_at("2001:db8::1") == client_at("2001:db8::ffff:1") != client_at("2001:db8:0:1::1")
    assert client_at("::ffff:10.0.0.1") == client_at("10.0.0.1") != client_at("10.0.0.2")
    assert client_at("fe80::1%eth0") == client_at("fe80::2")


def test_bodies_are_bounded_in_all(monkeypatch):
    """The oldest other upload makes room; the last one is refused."""
    from starlette.exceptions import HTTPException

    monkeypatch.setattr(connections, "MOST_BYTES", 100)

    async def check():
        limits = Connections()
        lines = [Line("10.0.0.1", port) for port in range(3)]
        first, second, third = (limits.open(line) for line in lines)
        for upload in (first, second, third):
            upload.enter(Phase.BODY)
            upload.since = {first: 1, second: 2, third: 3}[upload]
            limits.hold(upload, 40)
        assert [line.ended for line in lines] == [True, False, False]
        second.enter(Phase.WORK)
        with pytest.raises(HTTPException, match="503"):
            limits.hold(third, 40)

    asyncio.run(check())


def test_few_open_files_allow_fewer_connections(monkeypatch):
    limit = types.SimpleNamespace(RLIMIT_NOFILE=7, RLIM_INFINITY=-1, getrlimit=lambda _: (6, 6))
    monkeypatch.setattr(connections, "resource", limit)

    async def check():
        limits, lines = Connections(), [Line("10.0.0.1", port) for port in range(5)]
        for line in lines:
            limits.open(line)
        assert [line.ended for line in lines] == [True, True, False, False, False]

    asyncio.run(check())


def test_a_lost_connection_counts_until_its_work_is_done():
    async def check():
        limits = Connections(most_of_client=1)
        line = Line("10.0.0.1", 1)
        lost = limits.open(line)
        assert isinstance(lost, Connection)
        done = asyncio.Event()

        async def work(*_):
            await done.wait()

        scope = {"client": line.peer, "headers": []}
        task = asyncio.create_task(limits.watch(work)(scope, None, None))
        await asyncio.sleep(0)
        lost.is_lost = True
        limits.forget_if_over(lost)
        assert limits.open(Line("10.0.0.1", 2)) is None
        done.set()
        await task
        assert limits.open(Line("10.0.0.1", 2)) is not None

    asyncio.run(check())


def test_clients_take_turns():
    """One client asks ten times, then another once: the other is second."""
    order = []

    async def check():
        turns = Turns(1)

        async def work(client, number):
            async with turns.take(client):
                order.append((client, number))
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work("many", number)) for number in range(10)]
        await asyncio.sleep(0)
        await asyncio.gather(work("one", 0), *tasks)
        assert not turns._clients

    asyncio.run(check())
    assert order.index(("one", 0)) <= 2
    assert [number for client, number in order if client == "many"] == list(range(10))
