"""The picture of layers and the table of shares, by hand."""

import numpy as np
import pytest
from PIL import Image
from support.pages import read_page

from batnet_jax.data.pedestrians.draw import LAYERS
from batnet_jax.evaluation.layer_shares import LayerShares, summarise
from batnet_jax.report import page
from batnet_jax.report.attention_maps import AttentionMaps, AttentionRow, draw_attention_maps
from batnet_jax.report.attention_section import attention_section
from batnet_jax.report.layers import COLOURS, LEGEND, MAPS, paint_layers, share_table
from batnet_jax.report.ranked_list import Person
from batnet_jax.report.thumbnails import Thumbnails

RED = np.zeros((8, 4, 3), np.uint8) + np.array((200, 0, 0), np.uint8)  # luma 60
LAYERS_OF_RED = np.array([[0, 1], [2, 3]], np.uint8)


def test_colours_by_hand():
    shown = paint_layers(RED, LAYERS_OF_RED, LAYERS)
    assert (shown.shape, shown.dtype) == ((8, 4, 3), np.uint8)
    quarters = shown[:4, :2], shown[:4, 2:], shown[4:, :2], shown[4:, 2:]
    grey = 60
    expected = [(grey,) * 3]  # the background keeps the image's grey
    names = ("person", "occluder", "passer-by")
    expected += [np.rint(0.6 * np.array(COLOURS[name][1]) + 0.4 * grey) for name in names]
    for quarter, colour in zip(quarters, expected, strict=True):
        np.testing.assert_array_equal(quarter, np.broadcast_to(colour, quarter.shape))
    assert (RED[0, 0] == (200, 0, 0)).all()  # the image itself stays


def test_every_layer_but_the_background_has_a_colour_and_is_named():
    assert COLOURS.keys() == LAYERS.keys() - {"background"}
    assert LEGEND == "Layers: person orange, occluder blue, passer-by pink"


def figures(**maps):
    """Shares of two identities, with or without an attention at p2."""
    areas = np.tile([0.7, 0.2, 0.1, 0.0], (2, 1))
    rows = {name: np.array([[1 - x, x, 0, 0] for x in values]) for name, values in maps.items()}
    others = {name: own[:, 1] - 0.1 for name, own in rows.items()}
    shares = LayerShares(np.array([1, 2]), areas, {"p2": rows}, {"p2": others})
    return summarise(shares, samples=50)


def cells(parsed):
    return " ".join(parsed.text.split())


def show(tmp_path, body):
    path = tmp_path / "index.html"
    page.write_page(path, title="x", facts={}, sections=[page.Section("one", "One", body)])
    return read_page(path)


def test_the_table_has_a_row_for_each_map(tmp_path):
    flat = {"mask": [0.2, 0.2], "excess": [np.nan, np.nan], "after": [0.4, 0.5]}
    parsed = show(tmp_path, share_table(figures(before=[0.3, 0.5], **flat)))
    text = cells(parsed)
    for row in (
        "p2, before40.030.0 to 50.02.001.50 to 2.5030.0",
        "p2, mask20.020.0 to 20.01.001.00 to 1.0010.0",
        "p2, mask above 1/2-----",
        "p2, after45.040.0 to 50.02.252.00 to 2.5035.0",
        "p2, after less before+5.0+0.0 to +10.0",
    ):
        assert row in text, row
    assert "over 2 queries" in text
    assert "share of the area, 20.0%; 95% intervals over 2 identities" in text


@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("is_drawn", [True, False])
def test_the_section_says_what_was_measured(tmp_path, attended, is_drawn):
    thumbnails = Thumbnails()
    maps = AttentionMaps(*(np.arange(8.0).reshape(4, 2) for _ in range(3)))
    layers = paint_layers(RED, LAYERS_OF_RED, LAYERS) if is_drawn else None
    rows = [AttentionRow(Person(RED, 3, 1), {"p2": maps}, layers)] if attended else []
    found = figures(before=[0.3, 0.5]) if is_drawn else None
    section = attention_section(rows, thumbnails, found)
    parsed = show(tmp_path, section.body)
    alts = [a["aria-label"] for _, a in parsed.tags if a.get("role") == "img"]
    assert ("identity 3, camera 1: layers" in alts) == (attended and is_drawn)
    assert ("p2, before" in cells(parsed)) == is_drawn
    assert (LEGEND in cells(parsed)) == (attended and is_drawn)
    assert ("This network has no attention" in cells(parsed)) == (not attended)
    assert ("Nothing is shown" in cells(parsed)) == (not attended and not is_drawn)
    assert len(parsed.all("figure")) == attended * (5 + is_drawn) + is_drawn  # maps; the table


def test_the_picture_has_a_column_of_layers(tmp_path):
    maps = AttentionMaps(*(np.arange(8.0).reshape(4, 2) for _ in range(3)))
    person = Person(RED, 3, 1)
    blue = np.full_like(RED, (10, 20, 250))
    sizes = {}
    for name, layers in (("plain", None), ("layers", blue)):
        path = tmp_path / f"{name}.png"
        draw_attention_maps(path, [AttentionRow(person, {"p2": maps}, layers)], dataset="x", step=1)
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
        sizes[name] = sheet.shape
        found = np.nonzero((sheet == (10, 20, 250)).all(-1))
        assert (len(found[0]) == 128 * 256) == (name == "layers")
    assert sizes["layers"][1] - sizes["plain"][1] == 128 + 8
    assert 10 < sizes["layers"][0] - sizes["plain"][0] < 20  # the legend's line
    assert found[1].min() > 128  # beside the image
    assert found[1].max() < 2 * 128 + 3 * 8


def test_the_maps_have_titles():
    assert list(MAPS) == ["before", "mask", "excess", "after"]
