"""The report in Chromium: no requests, filters by mouse and keys, layout on a phone."""

import pytest
from support.chromium import CONTRAST, Seen, overflow, wait_for
from support.synthetic_report import World

SHOWN = "[...document.querySelectorAll('article.card')].filter(card => !card.hidden)"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "index.html"
    World(queries=300, identities=40, lists=6).write(path)
    return path


@pytest.fixture
def report(page, path):
    seen = Seen(page)
    page.goto(path.as_uri())
    yield page
    assert seen.errors == []
    assert seen.requests == [path.as_uri()]


def choose(report, selector, value):
    report.evaluate(
        f"(() => {{ const field = document.querySelector({selector!r}); field.value = {value!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def shown(report, of=""):
    return report.evaluate(f"{SHOWN}.map(card => card{of})" if of else f"{SHOWN}.length")


def test_filters(report):
    total = report.evaluate("document.querySelectorAll('article.card').length")
    assert 15 < total <= 24
    assert shown(report) == 8
    output = "document.querySelector('.filters output').textContent"
    assert report.evaluate(output) == f"8 of {total} matching lists shown, {total} in total"
    report.evaluate("document.querySelector('input[value=best]').click()")
    kinds = shown(report, ".dataset.kinds")
    assert len(kinds) == 6
    assert all("best" in own for own in kinds)
    assert report.evaluate("document.querySelector('.more').hidden")

    choose(report, "[data-filter=first]", "wrong")
    assert set(shown(report, ".dataset.first")) <= {"wrong"}
    report.evaluate("document.querySelector('.filters [type=reset]').click()")
    wait_for(report, f"{SHOWN}.length === 8")

    camera = report.evaluate("document.querySelector('article.card').dataset.camera")
    choose(report, "[data-filter=camera]", camera)
    assert set(shown(report, ".dataset.camera")) == {camera}
    report.evaluate("document.querySelector('.filters').reset()")
    pid = report.evaluate("document.querySelector('article.card').dataset.pid")
    choose(report, "[data-filter=pid]", f" {pid} ")
    assert set(shown(report, ".dataset.pid")) == {pid}
    assert report.evaluate("document.querySelector('.nothing').hidden")
    choose(report, "[data-filter=pid]", "99999")
    assert shown(report) == 0
    assert not report.evaluate("document.querySelector('.nothing').hidden")


def test_by_keyboard(report):
    report.keyboard.press("Tab")
    assert report.evaluate("document.activeElement.textContent") == "Skip to the content"
    report.keyboard.press("Enter")
    assert report.evaluate("document.activeElement.tagName") == "MAIN"
    report.evaluate("document.querySelector('.filters input').focus()")
    report.keyboard.press("ArrowRight")  # to the next radio button: the worst
    assert all("worst" in own for own in shown(report, ".dataset.kinds"))
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert report.evaluate(outline) == "solid"
    report.keyboard.press("ArrowLeft")
    assert shown(report) == 8
    report.evaluate("document.querySelector('.more').focus()")
    report.keyboard.press("Enter")
    assert shown(report) == 16
    assert report.evaluate(f"document.activeElement === {SHOWN}[8]")


def test_the_config_can_be_searched(report):
    rows = "[...document.querySelectorAll('.config tbody tr')].filter(row => !row.hidden)"
    names = f"{rows}.map(row => row.cells[0].textContent)"
    assert report.evaluate(names) == ["seed", "data.dir", "steps"]
    choose(report, "#config-search", "DATA")
    assert report.evaluate(names) == ["data.dir"]
    choose(report, "#config-search", "")
    report.evaluate("document.querySelector('#config-changed').click()")
    assert report.evaluate(names) == ["seed"]


@pytest.mark.parametrize("width", [320, 360, 768])
def test_it_fits_a_phone(phone, path, width):
    phone.set_viewport_size({"width": width, "height": 740})
    phone.goto(path.as_uri())
    assert overflow(phone) == 0
    phone.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert overflow(phone) == 0
    # Touch targets are large enough.
    low = (
        "Math.min(...[...document.querySelectorAll('nav a, .filters select, .filters button,"
        " .choice span, .more')].map(part => part.getBoundingClientRect().height))"
    )
    assert phone.evaluate(low) >= 38


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(report, scheme):
    """All text has WCAG's contrast of 4.5 to 1 against its background."""
    report.emulate_media(color_scheme=scheme)
    ratio, where = report.evaluate(CONTRAST)
    assert ratio >= 4.5, where


def test_every_control_has_a_name(report):
    nameless = (
        "[...document.querySelectorAll('input, select, button, [role=img], [role=group]')]"
        ".filter(part => !(part.labels?.length || part.ariaLabel || part.textContent.trim()))"
        ".map(part => part.outerHTML)"
    )
    assert report.evaluate(nameless) == []


def test_without_its_script_the_page_shows_everything(open_page, path):
    page = open_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.evaluate(f"{SHOWN}.length") > 15
    assert page.evaluate("document.querySelector('.filters').hidden")
