"""Charts, thumbnails, cards and tables of the report, with figures worked out by hand."""

import html
import re
from html.parser import HTMLParser
from urllib.parse import parse_qs

import numpy as np
import pytest
from support.synthetic_report import VERIFIED, World

from batnet_jax.report import charts, sections
from batnet_jax.report.cards import Card, Hit, PageImage, cards
from batnet_jax.report.charts import Axis, Series, line_chart, thin, ticks
from batnet_jax.report.feature_map import Mark, map_section
from batnet_jax.report.hardest import HardIdentity, hardest_section
from batnet_jax.report.settings import settings_section
from batnet_jax.report.sheet import SheetRow, sheet_section
from batnet_jax.report.summary import Measured, below, meaning, metrics_section
from batnet_jax.report.thumbnails import BOX, Thumbnails
from batnet_jax.report.training_section import training_section

TAG = re.compile(r"<[^>]*>")


def text_of(markup):
    return " ".join(html.unescape(TAG.sub(" ", markup)).split())


def test_axes_by_hand():
    axis = Axis(10, 20, 100, 200)
    assert [axis.at(v) for v in (10, 15, 20)] == [100, 150, 200]
    upwards = Axis(1e-5, 1e-3, 200, 0, log=True)
    assert [upwards.at(v) for v in (1e-5, 1e-4, 1e-3)] == [200, 100, 0]
    assert Axis(3, 3, 0, 10).at(3) == 5


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 50, [10, 20, 30, 40, 50]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (7, 7, [7]),
    ],
)
def test_ticks_by_hand(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_a_line_goes_through_its_points():
    chart = line_chart(
        [Series("a<b", [0, 10], [0.0, 1.0]), Series("c", [5], [0.5])],
        title='a "title"', x_label="x", y_label="y", y_range=(0, 1),
    )  # fmt: skip
    bottom, right = charts.HEIGHT - 44, charts.WIDTH - 10
    assert f'points="58,{bottom} {right},10"' in chart
    assert 'aria-label="a &quot;title&quot;"' in chart
    assert "a&lt;b" in chart
    assert chart.count("<circle") == 1  # one point makes no line


def test_numbers_on_an_axis_are_short():
    shown = [charts._short(value) for value in (0, 0.0005, 1.5e-5, 0.25, 300, 60000, 12345)]
    assert shown == ["0", "5e-4", "1.5e-5", "0.25", "300", "60k", "1.234e+04"]


def test_a_rate_that_never_changes_has_an_axis():
    chart = line_chart(
        [Series("a", [1, 2], [3e-3, 3e-3])], title="t", x_label="x", y_label="y", log=True
    )
    assert {"2e-3", "5e-3"} <= set(text_of(chart).split())


def test_one_line_needs_no_legend():
    one = line_chart([Series("a", [0, 1], [0, 1])], title="t", x_label="x", y_label="y")
    assert "legend" not in one


def test_thinning_takes_means():
    series = thin(Series("a", [1, 2, 3, 4, 5, 6], [0, 2, 4, 6, 8, 100]), 3)
    assert series.xs == [1.5, 3.5, 5.5]
    assert series.ys == [1, 5, 54]
    short = Series("a", [1, 2], [0, 2])
    assert thin(short, 2) is short
    assert len(thin(Series("a", range(1000), range(1000)), 7).xs) == 7


def test_one_point_is_no_chart():
    assert "<svg" not in sections.cmc_figure([1, 1], "x", num_gallery=1)
    assert "100.0% of the queries" in sections.cmc_figure([1, 1], "x", num_gallery=1)
    assert "at rank 3" in sections.cmc_figure([1, 3], "x", num_gallery=3)
    section = training_section([{"step": 7, "loss": 2.5, "lr": 0.01}], [RESULT])
    assert "<svg" not in section.body
    assert "Loss at step 7: 2.5. Learning rate at step 7: 0.01." in text_of(section.body)


def test_cmc_by_hand():
    text = text_of(sections.cmc_figure([1, 1, 2, 60], "x"))
    assert "rank found 1 50.0 2 75.0 3 75.0 5 75.0 10 75.0 20 75.0 50 75.0" in text


def test_histograms_are_of_distances_with_the_accept_threshold():
    markup = sections.verification_figure(VERIFIED, "x")
    text = text_of(markup)
    assert "accept up to 0.500" in text  # at a false accept rate of 1%: 1 - 0.5
    assert "accepts 75.0% of the pairs of the same identity and 0.9% of the pairs of diff" in text
    assert "0.01% 0.700 0.300 65.0% 0.009% too few pairs" in text
    # Pairs of one identity have cosine 0.7, left of the limit; other pairs have 0.2.
    peaks = []
    for points in re.findall(r'polygon class="area s\d" points="([^"]*)"', markup):
        places = np.array([p.split(",") for p in points.split()], float)
        peaks.append(places[places[:, 1].argmin(), 0])
    limit = float(re.search(r'class="limit" d="M([\d.]+)', markup).group(1))
    assert peaks[0] < limit < peaks[1]


def test_a_histogram_of_one_bin():
    figures = VERIFIED | {
        "histograms": {"edges": [-1.0, 0.0, 1.0], "positive": [0, 9], "negative": [0, 3]},
        "num_positive": 9, "num_negative": 3,
    }  # fmt: skip
    assert "9 pairs of the same identity and 3 pairs of different identities" in text_of(
        sections.verification_figure(figures, "x")
    )


RESULT = {
    "dataset": "a", "split": "test", "step": 5, "mAP": 0.125, "mINP": 0.0625, "ap": "trapezoid",
    "cmc": {"1": 0.25, "5": 0.5}, "num_query": 1600, "num_gallery": 40, "num_valid_query": 1500,
    "same_camera": "keep",
}  # fmt: skip


LOW = {"mAP": 0.1, "mINP": 0.01, "cmc": {"1": 0.125, "5": 0.3}}


def test_figures_are_large_with_their_change_and_what_they_mean():
    before = RESULT | {"step": 4, "mAP": 0.1, "cmc": {"1": 0.25, "5": 0.5}}
    section = metrics_section([Measured(RESULT, before, {"chance": LOW})])
    text = text_of(section.body)
    assert text.startswith("mAP 12.5% +2.5 since step 4 Rank-1 25.0% +0.0 since step 4 For 25 of")
    assert "For 25 of 100 queries the most similar image shows the same identity" in text
    assert "same identity; without training it is 12 by chance." in text
    assert "step 4, before 10.0 6.2 25.0 50.0" in text
    assert "chance 10.0 1.0 12.5 30.0" in text
    widths = re.findall(r'd="M0 0H([\d.]+)V8', section.body)
    assert [float(width) for width in widths] == [12.5, 10.0, 10.0]
    assert 'class="change higher">+2.5' in section.body
    assert 'class="change ">+0.0' in section.body


def test_a_net_below_a_baseline_is_said_to_be():
    """Rank-1 alone is enough."""
    baselines = {"chance": LOW, "raw pixels": LOW | {"cmc": {"1": 0.5}}}
    assert below(RESULT, baselines) == ["raw pixels"]
    text = meaning(RESULT, baselines)
    assert (
        "identity, but 12 by chance, 50 by raw pixels: the network is below raw pixels and" in text
    )
    assert 'class="meaning low"' in metrics_section([Measured(RESULT, None, baselines)]).body
    net = meaning(RESULT, {"untrained net": LOW})
    assert net.endswith("; without training it is 12 by the untrained net.")
    alone = "For 25 of 100 queries the most similar image shows the same identity."
    assert meaning(RESULT, {}) == alone


def test_metrics_name_the_convention_and_the_extra_figures():
    more = {
        "reranked": {"mAP": 0.2, "mINP": 0.1, "cmc": {"1": 0.3, "5": 0.6}},
        "single_shot": {"cmc": {"1": 0.75}},
        "confidence": {"level": 0.95, "mAP": [0.1, 0.15], "mINP": [0.05, 0.07],
                       "cmc": {"1": [0.2, 0.3], "5": [0.4, 0.6]}},
    }  # fmt: skip
    section = metrics_section([Measured(RESULT | more), Measured(RESULT | {"split": "val"})])
    text = text_of(section.body)
    assert "AP: trapezoid, the area under" in text
    assert "own camera count" in text
    assert "skipped" in text
    assert "a 12.5 6.2 25.0 50.0 1,500 of 1,600 40" in text
    assert "a, reranked 20.0 10.0 30.0 60.0" in text
    assert "a, single shot - - 75.0 -" in text
    assert "a, 95% interval 10.0 to 15.0" in text
    assert "a val 12.5" in text


def test_hard_cases_lead_to_their_lists():
    """Only to lists on the page."""
    pairs = [
        {"query_camera": a, "gallery_camera": b, "num_valid_query": 3, "mAP": 0.5, "rank1": 1.0}
        for a, b in ((1, 2), (2, 1))
    ]
    people = [HardIdentity(3, "", 2, 0.25, 0.5), HardIdentity(8, "", 2, 0.25, 0.5)]
    section = hardest_section(people, pairs, key="k", title="t", listed=[card()], lists="l")
    links = re.findall(r'<a href="#l" data-set="([^"]*)">([^<]*)</a>', section.body)
    assert [(html.unescape(wanted), text) for wanted, text in links] == [
        ("pid=3", "3"), ("camera=1&seen=2", "1 to 2"), ("camera=1&seen=2", "50.0"),
    ]  # fmt: skip


def test_the_darkest_cell_is_the_hardest_pair():
    pairs = [
        {"query_camera": a, "gallery_camera": b, "num_valid_query": 3, "mAP": value, "rank1": 1.0}
        for a, b, value in ((1, 2, 0.9), (2, 1, 0.1), (2, 3, 0.5))
    ]
    section = hardest_section([HardIdentity(7, "", 2, 0.25, 0.5)], pairs, key="k", title="t")
    text = text_of(section.body)
    assert "7 2 25.0 50.0" in text
    assert "2 to 1 3 10.0 100.0 2 to 3 3 50.0 100.0 1 to 2" in text
    assert '<td class="h9">10.0</td>' in section.body
    assert '<td class="h0">90.0</td>' in section.body
    assert "Cameras are not known" in hardest_section([], [], key="k", title="t").body


def test_training_without_and_with_figures():
    assert "no figures from training" in training_section([], []).body
    lines = [{"step": s, "loss": 9.0 - s, "loss_ce": 1.0, "lr": 1e-3} for s in range(1, 5)]
    section = training_section(lines, [RESULT])
    text = text_of(section.body)
    assert "At the end: 5." in text
    assert "cross-entropy" in text
    assert "triplet" not in text.replace("The loss and its parts", "")
    assert "from 0.001 to 0.001" in text
    assert "One step has been evaluated" in text
    assert section.body.count("<svg") == 2 + 2  # two charts, and the swatches of two losses
    two = training_section(lines, [RESULT, RESULT | {"step": 9}])
    assert "2 evaluations of a, AP: trapezoid" in text_of(two.body)
    assert "no metrics.jsonl" in training_section([], [RESULT]).body


def test_changes_from_the_defaults_are_marked():
    section = settings_section(
        {"a": 1, "b.c": [6], "d": "", "new": "<i>"}, {"a": 1, "b.c": [150, 200], "d": ""}
    )
    assert "2 of 4 fields differ from the defaults" in text_of(section.body)
    own, folded = section.body.split("<details>", 1)
    assert [text_of(row) for row in re.findall(r"<tr><th scope=\"row\">.*?</tr>", own)] == [
        "b.c (6) (150, 200)", "new <i> -",
    ]  # fmt: skip
    rows = re.findall(r"<tr([^>]*)><th scope=\"row\">(.*?)</tr>", folded)
    assert [text_of(row) for _, row in rows] == [
        "a 1 1", "b.c (6) (150, 200) changed", "d '' ''", "new <i> - changed",
    ]  # fmt: skip
    assert ["is-changed" in attributes for attributes, _ in rows] == [False, True, False, True]


def test_a_run_of_the_defaults_says_so():
    section = settings_section(
        {"a": 1}, {"a": 1}, facts={"written": "today"}, versions={"jax": "0.10"}
    )
    text = text_of(section.body)
    assert text.startswith("0 of 1 fields differ from the defaults of the package. All 1 fields")
    assert "written today" in text
    assert "jax 0.10" in text


def test_a_map_marks_identities_and_queries():
    """Places keep their proportions: one scale for both axes."""
    marks = [Mark(str(i), i % 2, i == 0) for i in range(10)]
    places = np.stack([np.arange(10.0), np.zeros(10)], 1)
    section = map_section(
        marks, {"PCA": places}, shares=[0.5, 0.25], num_identities=30, key="m", title="M"
    )
    drawn = re.findall(
        r'class="mark (s\d) (\w+)" data-who="(\d)".*?translate\(([^)]*)\)', section.body
    )
    assert [style for style, *_ in drawn] == [f"s{i % 8}" for i in range(10)]
    assert [kind for _, kind, *_ in drawn] == ["query"] + ["gallery"] * 9
    shapes = re.findall(r' d="([^"]*)"', section.body)
    assert shapes[0] == shapes[7] != shapes[8]
    spots = np.array([text.split() for *_, text in drawn], float)
    np.testing.assert_allclose(spots[:, 1], 170)
    np.testing.assert_allclose(np.diff(spots[:, 0]), 316 / 9, atol=0.1)
    assert "10 images of 10 of 30 identities" in text_of(section.body)
    assert "75% of it" in text_of(section.body)
    assert section.body.count("<title>") == 10


def test_a_sheet_shows_images_and_counts():
    images = [PageImage("t1", 3, 2), PageImage("t2", 3, 1)]
    section = sheet_section(
        [SheetRow(images, 5)], {"query": ["9", "4", "2", "8 x 4"]},
        input_size=(384, 128), num_identities=4, key="d", title="D",
    )  # fmt: skip
    text = text_of(section.body)
    assert "1 of 4 identities" in text
    assert "384 x 128 pixels" in text
    assert "3 (5 images) c2 c1 and 3 more" in text
    assert "query 9 4 2 8 x 4" in text


def test_a_thumbnail_is_stored_once():
    thumbnails = Thumbnails()
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 256, 128, 3), np.uint8)
    names = [thumbnails.add(image) for image in (one, other, one.copy())]
    assert names[0] == names[2] != names[1]
    assert thumbnails.styles().count("data:image/webp;base64,") == 2
    small = Thumbnails()
    small.add(one[:32, :16])  # a small image is not enlarged
    assert len(small.styles()) < len(thumbnails.styles()) / 4
    assert BOX[1] < 256


def test_a_thumbnail_has_the_shape_of_its_image():
    """And the area of the box at most."""
    for height, width in ((512, 256), (256, 512), (300, 300), (5000, 20), (20, 10)):
        thumbnails = Thumbnails()
        thumbnails.add(np.zeros((height, width, 3), np.uint8))
        wide, high = map(int, re.search(r"aspect-ratio:(\d+)/(\d+)", thumbnails.styles()).groups())
        assert wide * high <= 1.05 * BOX[0] * BOX[1]
        assert high <= 2 * BOX[1]
        assert high / wide == pytest.approx(height / width, rel=0.15)


# Cards.


def card(**changes):
    near, far = PageImage("t1", 3, 2), PageImage("t2", 4, None)
    hits = [Hit(near, 0, "same", 0.9), Hit(far, 1, "wrong", 0.8), Hit(far, 2, "wrong", 0.7)]
    own = {
        "query": PageImage("t0", 3, 1, file="a/q.jpg"), "kinds": ["worst", "random"],
        "average_precision": 0.25, "first_rank": 9, "hits": hits, "left_out": 4,
        "missed": [Hit(near, 9, "right", 0.125)], "num_missed": 3,
    }  # fmt: skip
    return Card(**own | changes)


class Tags(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.attributes = []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.attributes.append(dict(attrs))


class Images(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.labels, self.articles = [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if attrs.get("role") == "img":
            self.labels.append(attrs["aria-label"])
        if tag == "article":
            self.articles.append(attrs)


def test_a_card_shows_verdicts_as_words_and_icons():
    markup = cards([card()], key="list")
    start = markup.index("<article")
    seen = Images(markup[start:])
    assert seen.labels == [
        "Query: identity 3, camera 1", "Gallery image, not counted: identity 3, camera 2",
        "Gallery image, rank 1: identity 4", "Gallery image, rank 2: identity 4",
        "Gallery image, rank 9: identity 3, camera 2",
    ]  # fmt: skip
    text = text_of(markup[start:])
    assert "AP 0.250, first match at rank 9" in text
    assert "query q.jpg gallery, best first" in text
    assert (
        "– same camera 3 · c2 0.900 1 other identity 4 0.800 2 other identity 4 0.700 missed: 3 of"  # noqa: RUF001
        " the same identity, further down 9 same identity 3 · c2 0.125 and 2 more"
    ) in text
    assert "4 more images of the same camera are not shown" in text
    icons = re.findall(r"icon-(\w+)", markup[start:])
    assert icons == ["same", "wrong", "wrong", "right"]
    assert re.findall(r'class="hit (\w+)"', markup) == ["same", "wrong", "wrong", "right"]
    assert "missed:" not in cards([card(missed=(), num_missed=0)], key="list")


def test_names_and_files_of_strangers_are_text():
    """A name that ends an attribute or an element, with a control character."""
    nasty = '"><script>alert(1)</script>\x1b&'
    image = PageImage("t1", 3, 2, name=nasty, file=f"a/{nasty}.jpg")
    shown = [card(query=image, hits=[Hit(image, 1, "right", 0.5)])]
    sheet = sheet_section(
        [SheetRow([image], 1)], {}, input_size=(8, 4), num_identities=1, key="d", title="D"
    )
    marks = map_section(
        [Mark(nasty, 1, True)], {"PCA": np.zeros((1, 2))}, shares=[0, 0], num_identities=1,
        key="m", title="M",
    )  # fmt: skip
    hard = hardest_section(
        [HardIdentity(3, "t1", 1, 0.5, 0.5, nasty)], [], key="h", title="H", listed=shown
    )
    for markup in (cards(shown, key="list"), sheet.body, marks.body, hard.body):
        assert "<script" not in markup
        assert "\x1b" not in markup
        names = [name for attrs in Tags(markup).attributes for name in attrs]
        assert not {name for name in names if name.startswith("on") or "alert" in name}
        assert "alert(1)" in markup
    written = parse_qs(re.search('data-set="([^"]*)"', html.unescape(hard.body)).group(1))
    (option,) = re.findall('<option value="([^"]*)"></option>', cards(shown, key="list"))
    assert written["pid"] == [html.unescape(option)]  # the link asks for what the list holds


def test_cards_hold_the_data_that_filters_read():
    shown = [
        card(),
        card(hits=[Hit(PageImage("t3", 3, 7), 1, "right", 0.5)], kinds=["best"], first_rank=1),
    ]
    markup = cards(shown, key="list")
    read = [
        {name: own[f"data-{name}"] for name in ("kinds", "camera", "pid", "first", "seen")}
        for own in Images(markup).articles
    ]
    assert read == [
        {"kinds": "worst random", "camera": "1", "pid": "3", "first": "wrong", "seen": "2"},
        {"kinds": "best", "camera": "1", "pid": "3", "first": "right", "seen": "2 7"},
    ]
    assert re.findall(r'type="radio"[^>]*value="(\w*)"', markup) == ["", "worst", "best", "random"]
    unknown = cards([card(query=PageImage("t0", 3, None))], key="list")
    assert "camera</label>" not in unknown


@pytest.mark.slow
def test_the_page_of_the_largest_test_is_bounded(tmp_path):
    """The test has MSMT17's 11,659 queries. Its images are noise; photographs are smaller."""
    world = World(queries=11659, identities=3060)
    world.write(tmp_path / "index.html")
    size = (tmp_path / "index.html").stat().st_size
    assert 5e6 < size < 24e6  # tests share the lists, so more tests hardly add to it
