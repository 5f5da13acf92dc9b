"""Import paths: what they name, what is said where nothing is there, and who may name them."""

import sys

import pytest

from batnet_jax.errors import UserError
from batnet_jax.runtime import own_code

SOURCES = {
    "fine": "VALUE = 3\nclass Outer:\n    def inner(self): pass\n",
    "broken": "def f(:\n",
    "raising": "import fine\nfine.VALUE / 0\n",
    "leaving": "raise SystemExit('bye\\nbye')\n",
    "lacking": "import no_such_dependency\n",
    "package/__init__": "",
    "package/needs": "from package import nothing_there\n",
    "refusing": "def __getattr__(name):\n    raise RuntimeError('ask\\nnot')\n",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, source in SOURCES.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["a:B", "a.b.c:D", "_a1._b:C.d", "füße:Größe", "folder:people", "msmt17:v2"]
)
def test_what_has_the_form_of_an_import_path(name):
    assert own_code.is_import_path(name)


@pytest.mark.parametrize(
    "name",
    ["", "a", ":B", "a:", "a:B:C", "a.:B", ".a:B", "a..b:C", "a/b:C", "a:B()", "a:1", "1:a",
     "a:B\n", "a: B", "a:B-c", "C:\\a", None, 3, ("a:B",)],
)  # fmt: skip
def test_what_has_not(name):
    assert not own_code.is_import_path(name)


def test_what_a_path_names(modules):
    import fine  # type: ignore

    assert own_code.find("fine:VALUE") == 3
    assert own_code.find("fine:Outer.inner") is fine.Outer.inner
    assert own_code.choose({"fine": "ours"}, "fine") == "ours"
    assert own_code.choose({}, "fine:Outer") is fine.Outer
    assert own_code.choose({}, fine.Outer) is fine.Outer


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("fine:VALUES", r"fine has no 'VALUES' \(did you mean VALUE\?\): correct the name$"),
        ("fine:Outer.outer", "fine has no 'outer'"),
        ("fine:_", "fine has no '_': correct"),
        ("nowhere:X", "there is no module nowhere: install its package, or add the folder above"),
        ("nowhere.deep:X", "there is no module nowhere: "),
        ("package.missing:X", "there is no module package.missing: "),
        ("fine.inner:X", "there is no module fine.inner: "),
        ("broken:f", r"broken cannot be imported \(SyntaxError: .*line 1.*\): fix it$"),
        (
            "raising:X",
            r"raising cannot be imported \(ZeroDivisionError: .*, raising.py:2\): fix it",
        ),
        (
            "leaving:X",
            r"leaving cannot be imported \(SystemExit: bye bye, leaving.py:1\): fix it",
        ),
        ("lacking:X", r"\(ModuleNotFoundError: No module named 'no_such_dependency', lacking.py:1"),
        ("package.needs:X", r"\(ImportError: cannot import name 'nothing_there'"),
        ("refusing:X", "refusing has no 'X': correct the name"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(modules, path, message):
    with pytest.raises(UserError, match=message) as caught:
        own_code.find(path)
    assert str(caught.value).startswith(repr(path))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_called_is_refused(modules):
    with pytest.raises(UserError, match="'fine:VALUE' is of the type int: name a function or a cl"):
        own_code.choose({}, "fine:VALUE")
    with pytest.raises(UserError, match="'Outer' is not one of a, b: choose one, or name your own"):
        own_code.choose({"a": 1, "b": 2}, "Outer")


def test_arguments_are_checked_before_the_call():
    own_code.check_call("a:b", lambda x, *, y: 0, ["x"], ["y"])
    own_code.check_call("a:b", lambda *a, **b: 0, ["x"], ["y"])
    own_code.check_call("a:b", dict.fromkeys, ["x"], [])
    for found in (lambda: 0, lambda x: 0, lambda x, y, z: 0, lambda x, z=0: 0):
        with pytest.raises(UserError, match=r"'a:b' cannot be called with \(x, y=...\): "):
            own_code.check_call("a:b", found, ["x"], ["y"])


@pytest.mark.parametrize(
    ("path", "trust", "allowed"),
    [
        ("mypkg.nets:Block", "mypkg", True),
        ("mypkg.nets:Block", "mypkg.nets", True),
        ("mypkg.nets:Block", "mypkg.nets:Block", True),
        ("mypkg:Block", ["other", "mypkg"], True),
        ("mypkg.nets:Block", " other , mypkg ", True),
        ("mypkg.nets:Block", "", False),
        ("mypkg.nets:Block", ",", False),
        ("mypkg.nets:Block", "my", False),
        ("mypkg2.nets:Block", "mypkg", False),
        ("mypkg.nets:Block", "mypkg.nets:Blo", False),
        ("mypkg.nets:Block", "mypkg.losses", False),
        ("mypkg:Block", "mypkg.nets", False),
    ],
)
def test_who_is_trusted(monkeypatch, path, trust, allowed):
    monkeypatch.delenv(own_code.VARIABLE, raising=False)
    assert own_code.is_trusted(path, own_code.as_trusted(trust)) == allowed
    if isinstance(trust, str):
        monkeypatch.setenv(own_code.VARIABLE, trust)
        assert own_code.is_trusted(path, own_code.as_trusted(())) == allowed


@pytest.mark.parametrize("trust", [True, 3, [3], None])
def test_trust_is_given_by_name(trust):
    with pytest.raises(UserError, match="is not the name of a package"):
        own_code.as_trusted(trust)


def test_modules_of_the_current_folder_are_found_last(modules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))]
    )
    with pytest.raises(UserError, match="no module fine"):
        own_code.find("fine:VALUE")
    own_code.search_current_folder()
    own_code.search_current_folder()
    assert (sys.path[-1], sys.path.count(str(tmp_path))) == (str(tmp_path), 1)
    assert own_code.find("fine:VALUE") == 3
