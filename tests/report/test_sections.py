"""Heat maps and their picture, by hand; a self-contained page."""

import cv2
import numpy as np
import pytest
from PIL import Image
from support.pages import read_page

from batnet_jax.errors import UserError
from batnet_jax.report import page
from batnet_jax.report.attention_maps import (
    AttentionMaps,
    AttentionRow,
    draw_attention_maps,
    mean_maps,
    overlay,
)
from batnet_jax.report.page import Section
from batnet_jax.report.ranked_list import Person
from batnet_jax.report.thumbnails import Thumbnails, picture

# The ends of viridis as matplotlib has them, which OpenCV's table copies.
VIOLET, YELLOW = (68, 1, 84), (253, 231, 37)
GREY = np.full((128, 64, 3), 100, np.uint8)


def blend(colour):
    """Mix 6 parts of a colour with 4 parts of `GREY`."""
    return np.rint(0.6 * np.array(colour) + 0.4 * 100)


# Heat maps.


def test_colours_by_hand():
    heat = np.array([[0.5, 0.5], [0.5, 2.5]])
    shown = overlay(GREY, heat)
    assert (shown.shape, shown.dtype) == ((128, 64, 3), np.uint8)
    # Corners are outside all cell centres, where bilinear resizing repeats the edge.
    np.testing.assert_array_equal(shown[0, 0], blend(VIOLET))
    np.testing.assert_array_equal(shown[-1, -1], blend(YELLOW))
    # Halfway between two centres: (63.5 + 0.5) / 128 of the way, seen from either pixel row.
    middle = overlay(GREY, np.array([[0.0], [1.0]]))[64, 32]
    (teal,) = cv2.applyColorMap(np.array([[129]], np.uint8), cv2.COLORMAP_VIRIDIS)[0]
    np.testing.assert_array_equal(middle, blend(teal[::-1]))


@pytest.mark.parametrize("cell", [(0, 0), (2, 1), (7, 3)])
def test_a_hot_cell_lights_its_own_region(cell):
    heat = np.zeros((8, 4), np.float32)
    heat[cell] = 3
    shown = overlay(GREY, heat).astype(int)
    lit = shown[..., 0] - shown[..., 2] > 40  # yellow: much more red than blue
    rows, columns = np.nonzero(lit)
    inside = slice(16 * cell[0], 16 * cell[0] + 16), slice(16 * cell[1], 16 * cell[1] + 16)
    assert lit[inside].sum() == lit.sum() > 0
    assert rows.mean() == pytest.approx(16 * cell[0] + 7.5, abs=4)  # 4: cells at the border
    assert columns.mean() == pytest.approx(16 * cell[1] + 7.5, abs=4)


def test_only_the_map_has_colour_and_the_image_shows_through():
    red = np.zeros((16, 8, 3), np.uint8)
    red[:8] = (255, 0, 0)  # luma 76
    shown = overlay(red, np.zeros((2, 1)))
    np.testing.assert_array_equal(shown[0, 0], np.rint(0.6 * np.array(VIOLET) + 0.4 * 76))
    np.testing.assert_array_equal(shown[-1, 0], np.rint(0.6 * np.array(VIOLET)))


def test_limits_replace_the_maps_own():
    ones = np.ones((2, 1))
    np.testing.assert_array_equal(overlay(GREY, ones, (0, 1))[0, 0], blend(YELLOW))
    np.testing.assert_array_equal(overlay(GREY, ones, (1, 3))[0, 0], blend(VIOLET))
    np.testing.assert_array_equal(overlay(GREY, ones, (1, 1))[0, 0], blend(VIOLET))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(bad):
    with pytest.raises(UserError, match="not finite"):
        overlay(GREY, np.array([[1.0, bad]]))


def test_means_over_the_channels():
    before = np.array([[[[1.0, 3.0]], [[2.0, 6.0]]]])  # [1, 2, 1, 2]
    mask = np.full((1, 2, 1, 2), 0.5)
    maps = {"input": before, "mask": mask, "output": before * mask}
    (row,) = mean_maps({"p2": maps})
    np.testing.assert_array_equal(row["p2"].before, [[2], [4]])
    np.testing.assert_array_equal(row["p2"].mask, [[0.5], [0.5]])
    np.testing.assert_array_equal(row["p2"].after, [[1], [2]])
    assert mean_maps({}) == []


# The picture.


def attention_row(positions=("p2",), high=0.75, camera: int | None = 1):
    ramp = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2)
    mask = 0.5 + (high - 0.5) * ramp
    maps = AttentionMaps(ramp, mask, ramp * mask)
    return AttentionRow(Person(GREY, 3, camera), dict.fromkeys(positions, maps))


def draw(path, rows):
    draw_attention_maps(path, rows, dataset="pedestrians", step=9)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_size_follows_rows_and_positions(tmp_path):
    one = draw(tmp_path / "a.png", [attention_row()])
    two = draw(tmp_path / "b.png", [attention_row(), attention_row(camera=None)])
    wide = draw(tmp_path / "c.png", [attention_row(("p1", "p2", "p3"))])
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] > 256
    assert wide.shape[0] == one.shape[0]
    assert wide.shape[1] - one.shape[1] > 2 * 3 * 128


def test_columns_are_image_before_mask_after(tmp_path):
    sheet = draw(tmp_path / "a.png", [attention_row()])
    # Only cells are wide and not white: find them in a pixel row that crosses all of them.
    drawn = np.any(sheet != 255, axis=2)
    y = np.flatnonzero(drawn.sum(1) > 4 * 120)[5]
    edges = np.flatnonzero(np.diff(np.pad(drawn[y], 1).astype(int)))
    cells = [slice(a, b) for a, b in edges.reshape(-1, 2)]
    assert [cell.stop - cell.start for cell in cells] == [128] * 4
    assert (sheet[y, cells[0]] == 100).all()
    for cell in cells[1:]:
        assert np.ptp(sheet[y, cell], axis=1).min() > 0  # each has colour


def test_masks_share_their_scale_and_maps_do_not(tmp_path):
    sheet = draw(tmp_path / "a.png", [attention_row(high=0.9), attention_row(high=0.55)])
    bright = np.all(np.abs(sheet - blend(YELLOW)) <= 2, axis=2)
    half = (
        len(bright) // 2
    )  # each half has three maps; the second mask does not reach the top of the scale
    assert [count_runs(part.any(axis=0)) for part in (bright[:half], bright[half:])] == [3, 2]


def count_runs(flags):
    return int((np.diff(flags.astype(int), prepend=0) == 1).sum())


def test_nothing_to_draw_is_refused(tmp_path):
    for rows in ([], [attention_row(())]):
        with pytest.raises(UserError, match="no attention maps"):
            draw_attention_maps(tmp_path / "x.png", rows, dataset="x", step=1)
    assert not list(tmp_path.iterdir())


# The page.

NASTY = """<script>alert("1")</script> & 'it' é"""


def test_a_page_of_all_elements_is_self_contained_and_escaped(tmp_path):
    thumbnails = Thumbnails()
    body = [
        page.paragraph(NASTY),
        page.heading(NASTY),
        page.table(NASTY, [NASTY, "b"], [[NASTY, 1.5], ["x", page.Cell(NASTY, "h1")]]),
        page.figure(picture(thumbnails.add(GREY), NASTY), NASTY),
        page.details(NASTY, page.grid([page.paragraph(NASTY)])),
    ]
    sections = [Section("one", NASTY, "\n".join(body)), Section("two", "Two", "")]
    path = tmp_path / "index.html"
    facts = {NASTY: NASTY, "step": 3}
    page.write_page(path, title=NASTY, facts=facts, sections=sections, styles=thumbnails.styles())
    parsed = read_page(path)
    # Title, h1, link, h2; fact twice; paragraph, heading; caption, head and two cells of the table;
    # caption of the figure; summary and contents of the details.
    assert parsed.text.count(NASTY) == 4 + 2 + 2 + 4 + 1 + 2
    assert [a["aria-label"] for _, a in parsed.tags if a.get("role") == "img"] == [NASTY]
    assert [attrs["href"] for attrs in parsed.all("a")] == ["#content", "#one", "#two"]
