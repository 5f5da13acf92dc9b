"""The page that compares runs: its sections, and the page in Chromium."""

import html
import re

import pytest
from support.chromium import CONTRAST, Seen, overflow
from support.evaluated_runs import write_run

from batnet_jax.evaluation import compare
from batnet_jax.evaluation.evaluated_run import read_curves
from batnet_jax.report import charts
from batnet_jax.report.charts import STYLES, Interval, Series, interval_chart, line_chart
from batnet_jax.report.comparison import (
    RunCurves,
    comparison_sections,
    p_text,
    signed,
    spread,
    verdict,
)
from batnet_jax.report.page import escape, write_page

NO_CURVES = RunCurves([], [], [])


def text_of(markup):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def own(value, p):
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "p": p / 2, "p_holm": p}


def make_comparison(names=("a", "b"), **changes):
    """A comparison whose runs are groups of one, written by hand."""
    runs = [
        {"name": name, "workdir": name, "step": 5, "seed": 3, "group": number, "mINP": 0.25,
         "mAP": {"value": 0.5, "low": 0.4, "high": 0.6}, "cmc": {"1": 0.75, "5": 1.0},
         "rank1": {"value": 0.75, "low": 0.7, "high": 0.8}}
        for number, name in enumerate(names)
    ]  # fmt: skip
    groups = [
        {"name": run["name"], "runs": [number], "seeds": [3],
         "mAP": {"mean": 0.5, "std": None, "values": [0.5]},
         "rank1": {"mean": 0.75, "std": None, "values": [0.75]}}
        for number, run in enumerate(runs)
    ]  # fmt: skip
    return {
        "test": {"dataset": "people", "split": "val", "num_query": 9, "num_valid_query": 8,
                 "num_gallery": 1234, "ap": "trapezoid", "same_camera": "keep",
                 "multi_query": "none"},
        "method": {"unit": "identity", "units": 7, "samples": 10_000, "seed": 0, "level": 0.95},
        "runs": runs, "groups": groups, "seed_differences": [], "settings": [], "left_out": [],
        "differences": [{"run": name, "mAP": own(0.02, 0.01), "rank1": own(-0.02, 0.2)}
                        for name in names[1:]],
    } | changes  # fmt: skip


def sections_of(comparison, curves=None, messages=()):
    curves = curves or [NO_CURVES] * len(comparison["runs"])
    return {s.key: s.body for s in comparison_sections(comparison, curves, messages)}


def test_formats():
    assert [p_text(p) for p in (1.0, 0.0495, 0.001, 0.0009)] == [
        "1.000",
        "0.050",
        "0.001",
        "<0.001",
    ]
    assert [signed(v) for v in (0.0149, -0.5, 0.0)] == ["+1.5", "-50.0", "+0.0"]
    assert spread({"mean": 0.5, "std": 0.012}) == "50.0 ± 1.2"
    assert spread({"mean": 0.5, "std": None}) == "50.0"


def test_a_verdict_needs_the_corrected_p():
    assert verdict({"value": 0.2, "p": 0.01, "p_holm": 0.05}) == "equal"
    assert verdict({"value": 0.2, "p": 0.01, "p_holm": 0.049}) == "higher"
    assert verdict({"value": -0.2, "p": 0.01, "p_holm": 0.0}) == "lower"


def test_figures_and_differences():
    found = sections_of(make_comparison())
    text = text_of(found["figures"])
    assert "people val, in per cent, with 95% intervals. AP: trapezoid." in text
    assert "a 3 5 50.0 40.0 to 60.0 75.0 70.0 to 80.0 25.0 100.0 b 3 5" in text
    assert "different numbers of steps" not in text
    text = text_of(found["differences"])
    assert "Holm's correction for 1 run; below 0.05" in text
    row = "b +2.0 +1.0 to +3.0 0.005 0.010 higher -2.0 -3.0 to -1.0 0.100 0.200 not told apart"
    assert row in text
    assert '<td class="higher">higher</td>' in found["differences"]
    assert "8 of 9 queries have a match among 1,234" in text_of(found["method"])
    assert "10,000 samples of 7 identities" in text_of(found["method"])
    assert found.keys() == {"figures", "differences", "settings", "curves", "method"}


def test_other_steps_and_unknown_seeds_are_shown():
    comparison = make_comparison()
    comparison["runs"][1] |= {"step": 12_000, "seed": None}
    text = text_of(sections_of(comparison)["figures"])
    assert "evaluated after different numbers of steps" in text
    assert "b - 12,000 50.0" in text


def test_settings():
    def row(field, values, changes=True):
        return {"field": field, "values": values, "changes_weights": changes}

    settings = [row("model.x", [[1, 2], ""]), row("new", [None, "<i>"]), row("log", [1, 2], False)]
    body = sections_of(make_comparison(settings=settings))["settings"]
    main, others = body.split("<details>")
    assert "field a b model.x (1, 2) '' new - <i>" in text_of(main)
    assert main.count('class="is-changed"') == 2
    assert "log 1 2" in text_of(others)
    body = sections_of(make_comparison())["settings"]
    assert text_of(body) == "No setting that changes the network differs."


def test_groups_of_seeds():
    comparison = make_comparison("abcd")
    for number, run in enumerate(comparison["runs"]):
        run["group"] = number // 2
    figures = {"mAP": {"mean": 0.5, "std": 0.01, "values": [0.49, 0.51]}}
    figures["rank1"] = figures["mAP"]
    comparison["groups"] = [
        {"name": "a, b", "runs": [0, 1], "seeds": [0, 1], **figures},
        {"name": "c, d", "runs": [2, 3], "seeds": [0, None], **figures},
    ]
    text = text_of(sections_of(comparison)["seeds"])
    assert "a, b 0, 1 50.0 ± 1.0 50.0 ± 1.0 c, d 0, - 50.0" in text
    assert "No two groups share two seeds" in text
    difference = {"mean": 0.02, "std": 0.001, "low": -0.01, "high": 0.05, "p": 0.5, "p_holm": 0.75}
    comparison["seed_differences"] = [
        {"group": 1, "seeds": [0, 1], "mAP": difference, "rank1": difference}
    ]
    text = text_of(sections_of(comparison)["seeds"])
    assert "Differences to a, b, seed by seed" in text
    assert "c, d 0, 1 +2.0 0.1 -1.0 to +5.0 0.500 0.750 +2.0" in text


def test_curves_of_groups_share_a_style():
    comparison = make_comparison("abc")
    comparison["groups"] = [
        comparison["groups"][0] | {"name": "a, c", "runs": [0, 2]}, comparison["groups"][1],
    ]  # fmt: skip
    curves = [RunCurves([(1, 3.0), (2, 2.0)], [(2, 0.5)], [])] * 2 + [
        NO_CURVES._replace(loss=[(1, 1)])
    ]
    body = sections_of(comparison, curves)["curves"]
    assert re.findall(r'class="line (s\d)" points', body) == ["s0", "s0", "s1", "s0", "s1"]
    assert body.count("a, c</li>") == 2  # a legend of the loss, and one of mAP
    assert "Rank-1</h3>" not in body
    assert "lines of one kind" in body
    assert "hold no figures from training" in sections_of(comparison)["curves"]


def test_many_groups_have_several_charts_with_the_first_in_each():
    names = [f"run {n:02}" for n in range(2 * STYLES)]
    curves = [NO_CURVES._replace(loss=[(1, 3.0), (2, 2.0)])] * len(names)
    body = sections_of(make_comparison(names), curves)["curves"]
    legends = re.findall(r'<ul class="legend">.*?</ul>', body, re.DOTALL)
    shown = [re.findall(r"run \d\d", legend) for legend in legends]
    assert [len(own) for own in shown] == [STYLES, STYLES, 2]
    assert [own[0] for own in shown] == [names[0]] * 3
    assert [name for own in shown for name in own[1:]] == names[1:]
    assert set(re.findall(r'class="line s(\d+)"', body)) == {str(n) for n in range(STYLES)}


def test_files_that_are_left_out_are_listed():
    left_out = [{"run": "c", "reason": "'c' is <damaged>"}]
    body = sections_of(make_comparison(left_out=left_out), messages=["'d' has no line"])["left-out"]
    assert text_of(body) == "'c' is <damaged> 'd' has no line"


def test_intervals_by_hand():
    rows = [
        Interval("b<", 0.5, 0.0, 1.0, "+50, p 1", "equal"),
        Interval("c" * 40, -1.0, -1.0, -1.0, "-100", "lower"),
    ]
    chart = interval_chart(rows, title="t & u", x_label="x", show=str)
    # The axis is from -1.12 to 1.12 (margins of 6 %) over 320 pixels, so 0 is at 170.
    assert chart.count('class="zero" d="M170 ') == 2
    assert 'd="M170 26v8m0 -4H312.9m0 -4v8"' in chart
    assert 'cx="241.4"' in chart
    assert 'cx="27.1"' in chart
    assert "b&lt;" in chart
    assert f"{'c' * 18}…{'c' * 11}</text>" in chart
    assert 'aria-label="t &amp; u"' in chart
    assert f'viewBox="0 0 {charts.WIDTH} {8 + 2 * 44 + 42}"' in chart
    same = interval_chart([Interval("a", 0, 0, 0, "", "equal")], title="t", x_label="x", show=str)
    assert 'cx="170"' in same


def test_lines_of_one_style_share_a_legend():
    lines = [Series("a", [0, 1], [0, 1]), Series("a", [0, 1], [1, 0]), Series("b", [0], [1])]
    chart = line_chart(lines, title="t", x_label="x", y_label="y", styles=[2, 2, 0])
    assert re.findall(r'class="line (s\d)" points', chart) == ["s2", "s2", "s0"]
    assert text_of(chart).startswith("a b ")
    one = line_chart(lines[:2], title="t", x_label="x", y_label="y", styles=[2, 2])
    assert "legend" not in one


def test_control_characters_are_written_out():
    assert escape("a\x1b\n\u202e\udc80<") == r"a\x1b\n\u202e\udc80&lt;"


# --- in Chromium ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    runs = [
        write_run(folder / f"{'long-name-' * 6}{n}", seed=n % 2, skill=0.4 + 0.03 * n,
                  settings={"model.num_parts": n // 2, "data.workers": n + 1})
        for n in range(8)
    ]  # fmt: skip
    comparison = compare([*runs, folder / "nothing"], samples=200)
    curves = [read_curves(run, comparison["test"])[0] for run in runs]
    sections = comparison_sections(comparison, curves, ["'x' is damaged"])
    write_page(folder / "index.html", title="t", facts={"test": "people"}, sections=sections)
    return folder / "index.html"


@pytest.mark.parametrize(("screen", "width"), [("phone", 320), ("phone", 390), ("page", 1280)])
def test_it_fits_the_window(request, path, screen, width):
    page = request.getfixturevalue(screen)
    page.set_viewport_size({"width": width, "height": 900})
    seen = Seen(page)
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert overflow(page) == 0
    assert seen.errors == []
    assert seen.requests == [path.as_uri()]
    # A name of 61 letters leaves room for the figures beside it.
    share = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.runs th:first-child')].map(cell =>"
        " cell.getBoundingClientRect().width)) / window.innerWidth"
    )
    assert share < 0.5


STROKES = """[...document.querySelectorAll('.line, .interval, .zero')].map((node) => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => +v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const panel = getComputedStyle(node.closest('.panel')).backgroundColor;
  const [a, b] = [light(getComputedStyle(node).stroke), light(panel)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_text_have_contrast(page, path, scheme):
    """WCAG asks of graphics a contrast of 3 to 1, of text one of 4.5 to 1."""
    page.emulate_media(color_scheme=scheme)
    page.goto(path.as_uri())
    ratios = page.evaluate(STROKES)
    assert len(ratios) > 20
    assert min(ratios) >= 3
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
