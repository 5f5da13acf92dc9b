"""Filters: what passes, by an oracle that looks at the images one by one, and what is refused."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import survives

from batnet_jax.errors import UserError
from batnet_jax.inference.where import MAX_DEPTH, find_rows

COLUMNS = {
    "camera": np.array([1, 2, 3, 3, -4, 2**60]),
    "identity": np.array(["ann", "Łucja", "", "o'hara", "7", "07"]),
    "x0": np.array([0.5, math.nan, -1.0, 2.0, 1e300, 3.0]),
    "small": np.array([0.1, 0.5, 1, 2, 3, 4], np.float32),
    "unsigned": np.array([0, 1, 2, 3, 4, 2**64 - 1], np.uint64),
    "is new": np.array([True, False, True, True, False, False]),
    "time": np.array(["2023-12-31T23:59:59", "2024-01-01", "2024-01-01T00:00:00", "2024-05-05",
                      "", "2025-01-01"]),
    "modified": np.array([1704067199.0, 1704067200.0, 1704067200.5, 0.0, 2e9, math.nan]),
}  # fmt: skip
PATHS = [f"a/{i}.jpg" for i in range(5)] + ["b/*.png"]


def rows(where):
    return find_rows(where, COLUMNS, PATHS, 6).tolist()


@pytest.mark.parametrize(
    ("where", "passing"),
    [
        ("camera=3", [2, 3]),
        ("camera == 3.0", [2, 3]),
        ("camera='3'", [2, 3]),
        ("camera<3", [0, 1, 4]),
        ("camera>=1152921504606846976", [5]),
        ("camera>1152921504606846976", []),
        ("camera<1e400", [0, 1, 2, 3, 4, 5]),
        ("unsigned=18446744073709551615", [5]),
        ("unsigned>-1", [0, 1, 2, 3, 4, 5]),
        ("camera!=3", [0, 1, 4, 5]),
        ("not camera=3", [0, 1, 4, 5]),
        ("camera in (1, 2)", [0, 1]),
        ("camera not in (1, 2)", [2, 3, 4, 5]),
        ("camera=3 and x0>0", [3]),
        ("camera=1 or camera=2 and x0>0", [0]),  # `and` binds stronger
        ("(camera=1 or camera=2) and x0>0", [0]),
        ("(camera=1 or camera=2) and not x0>0", [1]),
        ("x0 != 2", [0, 1, 2, 4, 5]),  # a missing number equals nothing
        ("x0 < 1e999", [0, 2, 3, 4, 5]),
        ("identity=ann", [0]),
        ('identity="o\'hara"', [3]),
        ("identity='o''hara'", [3]),
        ("identity=''", [2]),
        ("identity=7", [4]),
        ("identity in (7, 07, ann)", [0, 4, 5]),
        ("identity>='o'", [1, 3]),
        ("identity like '*a*'", [0, 1, 3]),
        ("identity not like '?*'", [2]),
        ("'is new'=true", [0, 2, 3]),
        ('"is new" = No', [1, 4, 5]),
        ("time>2024-01-01", [2, 3, 5]),
        ("time > '2024-01-01T00:00:00'", [3, 5]),
        ("modified>=2024-01-01", [1, 2, 4]),
        ("modified < 2024-01-01T01:00:00+01:00", [0, 3]),
        ("modified = 2024-01-01T00:00:00Z", [1]),
        ("path like 'a/*' and not path='a/3.jpg'", [0, 1, 2, 4]),
        ("path like '*[*]*'", [5]),
        ("PATH = 1 or camera=1", None),
        ("small = 0.1", []),  # 0.1 in float32 is another number
        ("small = 0.5 AND NOT (camera IN (2) AND camera IN (3))", [1]),
    ],
)  # fmt: skip
def test_what_passes(where, passing):
    if passing is None:
        with pytest.raises(UserError, match="no column 'PATH': it has camera, identity, "):
            rows(where)
    else:
        assert rows(where) == passing


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "a column is missing at the end of ''"),
        ("camera", "=, <, in or like is missing at the end"),
        ("camera=", "a value is missing at the end"),
        ("camera=3 and", "a column is missing at the end"),
        ("camera=3 camera=4", "`and` or `or` is missing before 'camera=4'"),
        ("(camera=3", r"\) is missing at the end"),
        ("camera in 3", r"\( is missing before '3'"),
        ("camera in ()", r"a value is missing before '\)'"),
        ("camera in (1 2)", r", is missing before '2\)'"),
        ("camera not = 3", "is missing before '= 3'"),
        ("camera ! 3", "no sense in '! 3'"),
        ("identity='ann", 'no sense in "\'ann"'),
        ("and camera=3", "the name of a column is missing before 'and camera=3'"),
        ("camera=and", "a value is missing before 'and'"),
        ("gait=3", "no column 'gait': it has camera, identity, x0, .*, path"),
        ("ga\nit=3", "no column 'ga'|is missing before"),
        ("'ga\nit'=3", r"no column '\"?ga\\+nit"),
        ("camera=ann", "column camera holds numbers, and 'ann' is neither"),
        ("camera=2024-13-01", "'2024-13-01' is neither a number nor a date"),
        ("camera=nan", "'nan' is neither"),
        ("camera like '3*'", "`like` is for texts"),
        ("identity<7", "quote it, as in identity < '7'"),
        ("'is new'=2", "is new is true or false, not '2'"),
        ("(" * 99, f"nest {MAX_DEPTH}"),
        ("not " * 999 + "camera=3", f"nest {MAX_DEPTH}"),
        ("camera=3 or " * 9999, "is too long"),
        ("__import__('os').system('true')", "is missing before|no column"),
    ],
)
def test_what_is_refused(where, message):
    with pytest.raises(UserError, match=message) as info:
        rows(where)
    assert "\n" not in str(info.value)


def test_a_gallery_without_columns_says_so():
    with pytest.raises(UserError, match="no column 'camera': it has none"):
        find_rows("camera=3", {}, None, 3)
    assert find_rows("path=a", {}, [], 0).tolist() == []


def passes(expression, i):
    """The oracle: whether image i passes an expression of nested tuples."""
    kind, *rest = expression
    if kind == "not":
        return not passes(rest[0], i)
    if kind in ("and", "or"):
        both = [passes(part, i) for part in rest]
        return all(both) if kind == "and" else any(both)
    name, value = rest
    own = PATHS[i] if name == "path" else COLUMNS[name][i].item()
    if kind == "like":
        pattern = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in value)
        return re.fullmatch(pattern, own, re.DOTALL) is not None
    if kind in ("in", "not in"):
        return (own in value) == (kind == "in")
    return {
        "=": own == value, "!=": own != value, "<": own < value, "<=": own <= value,
        ">": own > value, ">=": own >= value,
    }[kind]  # fmt: skip


def write(expression):
    """Write an expression as a filter."""
    kind, *rest = expression
    if kind == "not":
        return f"not ({write(rest[0])})"
    if kind in ("and", "or"):
        return f" {kind} ".join(f"({write(part)})" for part in rest)
    name, value = rest
    shown = f"({', '.join(map(literal, value))})" if "in" in kind else literal(value)
    return f'"{name}" {kind} {shown}'


def literal(value):
    return repr(value) if isinstance(value, int | float) else "'" + value.replace("'", "''") + "'"


NUMBERS = st.integers(-5, 5) | st.sampled_from([2**60, 2**60 + 1, 2**64 - 1, 2**80, -(2**70)])
NUMBERS |= st.floats(allow_nan=False, allow_infinity=False)
NUMBERS |= st.sampled_from([0.5, 2.0, 1704067200.5])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
TEXTS |= st.sampled_from([text for name in ("identity", "time") for text in COLUMNS[name].tolist()])
PATTERNS = st.text("*?an7o'/j", max_size=6)


def comparisons(names, values):
    single = st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), names, values)
    several = st.tuples(st.sampled_from(["in", "not in"]), names, st.lists(values, min_size=1))
    return single | several


LEAVES = comparisons(st.sampled_from(["camera", "x0", "small", "unsigned", "modified"]), NUMBERS)
LEAVES |= comparisons(st.sampled_from(["identity", "time", "path"]), TEXTS)
LEAVES |= st.tuples(st.just("like"), st.sampled_from(["identity", "path"]), PATTERNS)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: (
        st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(EXPRESSIONS)
def test_the_same_pass_as_one_by_one(expression):
    assert rows(write(expression)) == [i for i in range(6) if passes(expression, i)]


WORDS = st.sampled_from(
    ["camera", "identity", "x0", "path", "'is new'", "and", "or", "not", "in", "like", "(", ")",
     ",", "=", "!=", "<", ">", "3", "-1.5e3", "1e999", "2024-01-01", "2024-01-01T25", "'", '"',
     "''", "'*['", "nan", "true", "\0", "\n", "\udc80", "9" * 5000, "é", "²", "0x3"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30))
def test_whatever_is_written_gives_a_result_or_a_line(where):
    found = survives(rows, where)
    assert isinstance(found, str) or found == sorted(set(found) & set(range(6)))
