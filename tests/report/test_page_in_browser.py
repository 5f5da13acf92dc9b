"""The report in Chromium: no requests, filters by mouse and keys, layout on a phone."""

import pytest
from support.chromium import CONTRAST, Seen, overflow, serious_findings, wait_for
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
    assert 40 < total <= 24 + 25
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
    rows = "[...document.querySelectorAll('.fold details .config tbody tr')]"
    names = f"{rows}.filter(row => !row.hidden).map(row => row.cells[0].textContent)"
    assert report.evaluate(names) == ["seed", "data.dir", "steps"]
    choose(report, "#config-search", "DATA")
    assert report.evaluate(names) == ["data.dir"]
    choose(report, "#config-search", "")
    assert report.evaluate(names) == ["seed", "data.dir", "steps"]


def test_an_image_is_enlarged_beside_its_query(report):
    """By mouse and by keys; the window goes along the list and gives the focus back."""
    card = "document.querySelector('article.card')"
    hits = f"{card}.querySelectorAll('.hits .zoom')"
    report.evaluate(f"{hits}[3].click()")
    assert report.evaluate("document.getElementById('zoom').open")
    heads = "[...document.querySelectorAll('#zoom figcaption b')].map(b => b.textContent)"
    head = report.evaluate(f"{hits}[3].dataset.head")
    assert "cosine" in head
    assert report.evaluate(heads) == ["query", head]
    files = "[...document.querySelectorAll('#zoom figcaption')].map(b => b.innerText)"
    assert all(".jpg" in text for text in report.evaluate(files))
    large = "document.querySelectorAll('#zoom .thumb')[1].getBoundingClientRect().width"
    small = f"{hits}[3].getBoundingClientRect().width"
    assert report.evaluate(large) > 1.5 * report.evaluate(small)
    report.keyboard.press("ArrowRight")
    assert report.evaluate(heads)[1] == report.evaluate(f"{hits}[4].dataset.head")
    report.evaluate("document.querySelector('#zoom [data-step=\"-1\"]').click()")
    assert report.evaluate(heads)[1] == head
    report.keyboard.press("Escape")
    assert not report.evaluate("document.getElementById('zoom').open")
    assert report.evaluate(f"document.activeElement === {hits}[3]")
    report.keyboard.press("ArrowLeft")
    assert report.evaluate(f"document.activeElement === {hits}[2]")
    report.keyboard.press("Enter")
    assert report.evaluate(heads)[1] == report.evaluate(f"{hits}[2].dataset.head")


def test_hard_cases_lead_to_their_lists(report):
    link = "document.querySelector('#hardest .matrix a')"
    wanted = report.evaluate(f"Object.fromEntries(new URLSearchParams({link}.dataset.set))")
    report.evaluate(f"{link}.click()")
    wait_for(report, f"{SHOWN}.every(card => card.dataset.camera === '{wanted['camera']}')")
    assert shown(report) > 0
    assert all(wanted["seen"] in own.split() for own in shown(report, ".dataset.seen"))
    assert (
        report.evaluate("document.querySelector('#ranked-lists').getBoundingClientRect().top") < 300
    )


def test_a_map_lights_up_an_identity(report):
    lit = "[...document.querySelectorAll('.mark.lit')].map(mark => mark.dataset.who)"
    choose(report, "form.light select", "5")
    assert set(report.evaluate(lit)) == {"5"}
    both = 2 * report.evaluate(
        "document.querySelectorAll('.scatter')[0].querySelectorAll('.lit').length"
    )
    assert len(report.evaluate(lit)) == both > 10
    report.hover(".mark[data-who='7'] >> nth=0", force=True)
    told = "document.querySelector('form.light output').textContent"
    wait_for(report, f"{told}.includes('camera')")
    choose(report, "form.light select", "")
    assert report.evaluate(lit) == []


def test_a_phone_folds_all_sections_but_the_first(phone, path):
    phone.goto(path.as_uri())
    opened = "[...document.querySelectorAll('.fold')].map(fold => fold.open)"
    assert phone.evaluate(opened) == [True] + [False] * 8
    phone.evaluate("document.querySelector('nav a[href=\"#map\"]').click()")
    assert phone.evaluate("document.querySelector('#map .fold').open")
    phone.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(phone.evaluate(opened))


def test_charts_fill_their_cards(report):
    """Up to the padding, at any width; letters stay of readable size."""
    for width in (1280, 800, 390):
        report.set_viewport_size({"width": width, "height": 900})
        report.evaluate("document.querySelectorAll('.fold').forEach(part => part.open = true)")
        gaps = report.evaluate(
            "[...document.querySelectorAll('.panel .chart, .panel .scatter')].map(chart =>"
            " chart.closest('.panel').clientWidth - chart.getBoundingClientRect().width)"
        )
        assert max(gaps) <= 2 * 16 + 1, width
        sizes = report.evaluate(
            "[...document.querySelectorAll('.chart')].map(chart => parseFloat(getComputedStyle("
            "chart.querySelector('text')).fontSize) * chart.getBoundingClientRect().width / 340)"
        )
        assert min(sizes) > 9.5, width
        assert max(sizes) < 19, width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(report, width, scheme):
    report.set_viewport_size({"width": width, "height": 900})
    report.emulate_media(color_scheme=scheme)
    report.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert serious_findings(report) == []
    report.evaluate("document.querySelector('article.card .hits .zoom').click()")
    assert serious_findings(report) == []


@pytest.mark.parametrize("width", [320, 360, 768])
def test_it_fits_a_phone(phone, path, width):
    phone.set_viewport_size({"width": width, "height": 740})
    phone.goto(path.as_uri())
    assert overflow(phone) == 0
    phone.evaluate("document.querySelectorAll('.fold').forEach(part => part.open = true)")
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
        ".filter(part => !(part.labels?.length || part.ariaLabel || part.textContent.trim()"
        " || part.querySelector('[aria-label]')))"
        ".map(part => part.outerHTML)"
    )
    assert report.evaluate(nameless) == []


def test_without_its_script_the_page_shows_everything(open_page, path):
    page = open_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.evaluate(f"{SHOWN}.length") > 15
    assert page.evaluate("document.querySelector('.filters').hidden")
