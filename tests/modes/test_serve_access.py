"""The mode `serve`: who may ask it, by which name, and where it listens."""

import json
import re
import socket
import threading
import time

import pytest
from support import needs
from support.mean_colour_model import COLOURS, config, png, use_colours, write_gallery

from batnet_jax.errors import UserError
from batnet_jax.inference.search import Searcher
from batnet_jax.modes import serve

needs.installed("starlette", "uvicorn", "httpx2")
from starlette.testclient import TestClient  # noqa: E402

from batnet_jax.modes.serve import access, app, server  # noqa: E402

TOKEN = "a-token.of_mine~1"


@pytest.fixture
def searcher(tmp_path, monkeypatch):
    use_colours(monkeypatch)
    return Searcher(config(), tmp_path / "run", write_gallery(tmp_path / "gallery"))


@pytest.fixture
def ask(searcher):
    """Return a function that makes a client of a server at an address."""

    def make(address="127.0.0.1", names=(), token=None):
        made = app.make_app(searcher, access.HostNames(address, names), token)
        return TestClient(
            made, "http://localhost", raise_server_exceptions=False, follow_redirects=False
        )

    return make


LOCAL = ("localhost", "LOCALHOST.", "127.0.0.1", "127.0.0.2:80", "[::1]:8000", "localhost:8000")
OTHERS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", "")
OTHERS += ("localhost:80:80", "[::1", "::1", "localhost/", "local host", "*", "[evil.example]")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_a_local_server_answers_to_local_names_alone(address):
    names = access.HostNames(address)
    assert {name: names.allows(name) for name in LOCAL} == dict.fromkeys(LOCAL, True)
    remote = (*OTHERS, "10.0.0.1", "0.0.0.0", "[fe80::1]", socket.gethostname() + ".example")
    assert {name: names.allows(name) for name in remote} == dict.fromkeys(remote, False)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.1.2.3"])
def test_a_public_server_answers_to_addresses_and_the_names_given(address):
    names = access.HostNames(address, ["Search.example.org", "fd00::7"])
    mine = (*LOCAL, "search.example.ORG:8000", "10.1.2.3:8000", "[fd00::7]", "0.0.0.0:1")
    mine += (socket.gethostname(),)
    assert {name: names.allows(name) for name in mine} == dict.fromkeys(mine, True)
    assert {name: names.allows(name) for name in OTHERS} == dict.fromkeys(OTHERS, False)


def test_another_name_is_refused_with_the_way_out(ask):
    answer = ask().get("/", headers={"Host": "evil\x7f.example"})
    assert answer.status_code == 400
    assert "the name 'evil\\x7f.example'" in answer.json()["error"]
    assert "--allow_host" in answer.json()["error"]
    allowed = ask(names=["proxy.example"])
    assert allowed.get("/", headers={"Host": "proxy.example"}).status_code == 200


@pytest.mark.parametrize(
    "name", ["*", "a.example:80", "http://a.example", "a/b", "", "a b", "-a", "[::1", "a..", "é"]
)
def test_what_is_no_host_name(name):
    with pytest.raises(UserError, match=r"--allow_host=.*not a host name: give"):
        access.check_names(["fine.example", name])


def test_host_names_that_may_be_given():
    access.check_names(["a", "a-b.example.", "_a.example", "10.0.0.1", "::1", "[fe80::1]"])


@pytest.mark.parametrize("token", ["", "a b", "a;b", "a\n", "é", "a/b", "x" * 201])
def test_what_is_no_token(token):
    with pytest.raises(UserError, match="--token must have 1 to 200"):
        access.check_token(token)


def test_without_the_token_nothing_is_told(ask):
    client = ask(token=TOKEN)
    ways = [{}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {TOKEN}"}]
    ways += [{"Authorization": TOKEN}, {"Cookie": "batnet_0=x; a"}, {"Cookie": f"batnet={TOKEN}"}]
    for path in ("/", "/page.js", "/gallery/0", "/gallery/77", "/nowhere"):
        for headers in ways:
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401, (path, headers)
            assert "token" in answer.json()["error"]
        for query in ("", "token=", f"token={TOKEN}x", f"token={TOKEN[:-1]}", "&" * 50, "token=é"):
            assert client.get(f"{path}?{query}").status_code == 401, (path, query)
    assert client.post("/search", content=png((1, 2, 3))).status_code == 401


def test_the_token_comes_in_a_header_or_in_the_address(ask):
    client = ask(token=TOKEN)
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"token {TOKEN}"}):
        assert client.get("/gallery/0", headers=headers).status_code == 200
    assert client.get(f"/gallery/0?token={TOKEN}").status_code == 200
    sent = {"content": png((1, 2, 3)), "headers": {"Content-Type": "image/png"}}
    assert len(client.post(f"/search?top=2&token={TOKEN}", **sent).json()["hits"]) == 2


def test_the_page_remembers_the_token_in_a_cookie(ask):
    client = ask(token=TOKEN)
    answer = client.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert re.search("HttpOnly.*SameSite=lax", answer.headers["set-cookie"])
    assert client.get("/").status_code == 200
    assert client.get("/gallery/0").status_code == 200
    other = ask(token="another")  # at another port of this host
    other.cookies.update(client.cookies)
    assert other.get("/").status_code == 401


def test_every_answer_has_the_headers(ask, searcher):
    def fail(*_):
        raise ZeroDivisionError

    client, guarded = ask(), ask(token=TOKEN)
    image = {"content": png((1, 2, 3)), "headers": {"Content-Type": "image/png"}}
    answers = [client.get(path) for path in ("/", "/page.css", "/page.js", "/gallery/0")]
    answers += [client.get("/gallery/77"), client.get("/search"), client.post("/gallery/0")]
    answers += [client.get("/", headers={"Host": "evil.example"}), guarded.get("/")]
    answers += [
        guarded.get(f"/?token={TOKEN}"),
        client.post("/search"),
        client.request("TRACE", "/"),
    ]
    answers += [client.post("/search?top=0", **image), client.post("/search", **image)]
    searcher.search = fail
    answers += [client.post("/search", **image)]
    statuses = [200] * 4 + [404, 405, 405, 400, 401, 303, 415, 405, 400, 200, 500]
    assert [answer.status_code for answer in answers] == statuses
    for answer in answers:
        for name, value in access.HEADERS.items():
            assert answer.headers[name] == value, (answer.request.url, name)
        assert "access-control-allow-origin" not in answer.headers


def test_listening_address():
    with serve.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port} .*another --port"):
            serve.listen("127.0.0.1", port)
    for host in ("no.such.host.invalid", "a" * 300, "a..b", "\0"):
        with pytest.raises(UserError, match="cannot listen"):
            serve.listen(host, 0)
    for host, address in (("127.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "0.0.0.0")):
        with serve.listen(host, 0) as listener:
            assert listener.getsockname()[0] == address


def at(host):
    """Skip where this machine has no such address."""
    try:
        serve.listen(host, 0).close()
    except UserError:
        needs.skip(f"this machine has no address {host}")
    return host


HOSTS = ["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::", "localhost"]


@pytest.mark.parametrize("host", HOSTS)
def test_run(searcher, tmp_path, monkeypatch, capsys, host):
    """The server answers at the address that it prints; if it is public, with the token alone."""
    servers = []

    class Kept(server.Server):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            servers.append(self)

    monkeypatch.setattr(server, "Server", Kept)
    arguments = {"gallery": tmp_path / "gallery", "host": at(host), "port": 0}
    thread = threading.Thread(target=serve.run, args=(config(), tmp_path / "run"), kwargs=arguments)
    thread.start()
    try:
        while thread.is_alive() and not (servers and servers[0].started):
            time.sleep(0.02)
        output = capsys.readouterr()
        shown = re.search(r"ready at http://(\S+?):(\d+)(/\?token=(\w+))? \(Ctrl-C", output.out)
        name, port, _, token = shown.groups()
        path = f"/gallery/0?token={token}" if token else "/gallery/0"
        request = f"GET {path} HTTP/1.0\r\nHost: {name}:{port}\r\n\r\n"
        with socket.create_connection((name.strip("[]"), int(port))) as connection:
            connection.sendall(request.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        for one in servers:
            one.should_exit = True
        thread.join()
    is_public = host in ("0.0.0.0", "::")
    assert (f"warning: --host={host}" in output.err) == is_public
    assert (token is not None and len(token) == 48) == is_public
    assert (
        f"from other machines: http://{socket.gethostname()}:{port}/" in output.out
    ) == is_public
    assert f"{len(COLOURS)} gallery images" in output.out


def test_the_token_comes_from_the_environment(searcher, tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(app, "make_app", lambda searcher, names, token, *_: given.append(token))
    monkeypatch.setattr(server, "serve", lambda *_: None)
    more = {"gallery": tmp_path / "gallery", "host": "127.0.0.1", "port": 0}
    serve.run(config(), tmp_path / "run", **more)
    monkeypatch.setenv("BATNET_TOKEN", "from-there")
    serve.run(config(), tmp_path / "run", **more)
    serve.run(config(), tmp_path / "run", **more, token="from-here")
    assert given == [None, "from-there", "from-here"]
    assert "/?token=from-here (" in capsys.readouterr().out


def test_the_score_to_accept_is_looked_up(searcher, tmp_path, monkeypatch):
    """As `search` looks it up; what is no score is refused before the model is loaded."""
    given = []
    monkeypatch.setattr(app, "make_app", lambda *words: given.append(words[4]))
    monkeypatch.setattr(server, "serve", lambda *_: None)
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    far, alarm = (
        [{f"wanted_false_{name}_rate": rate, "threshold": 10 * rate, "resolved": True}
         for rate in (0.01, 0.05)] for name in ("accept", "alarm")
    )  # fmt: skip
    figures = {
        "verification": {"operating_points": far},
        "open_set": {"operating_points": alarm, "num_gallery": len(COLOURS) - 1},
    }
    (run / "eval" / "step_5.json").write_text(json.dumps(figures))
    more = {"gallery": tmp_path / "gallery", "host": "127.0.0.1", "port": 0}
    for text in (None, "0.6", "far=0.05", "alarm=1%"):
        serve.run(config(), run, **more, accept=text)
    assert given == [None, 0.6, 0.5, 0.1]
    with pytest.raises(UserError, match=r"\(nearest: 0\.01 and 0\.05\): give one"):
        serve.run(config(), run, **more, accept="2%")
    monkeypatch.setattr(serve, "Searcher", None)
    with pytest.raises(UserError, match="--accept=much is not a number"):
        serve.run(config(), run, **more, accept="much")
