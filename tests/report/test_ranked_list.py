"""The picture of ranked lists: size, marks, order, refused input."""

import numpy as np
import pytest
from PIL import Image

from batnet_jax.errors import UserError
from batnet_jax.report.ranked_list import Person, RankedList, draw_ranked_lists

TITLE = dict(dataset="pedestrians", step=120, mean_ap=0.5)
GREY = np.full((128, 64, 3), 128, np.uint8)


def draw(path, rows):
    draw_ranked_lists(path, rows, **TITLE)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def row(pids, image=GREY, query_pid=1, average_precision=0.5):
    gallery = [Person(image, pid, 2) for pid in pids]
    return RankedList(Person(image, query_pid, 1), average_precision, gallery)


def test_size_follows_rows_and_places(tmp_path):
    one = draw(tmp_path / "one.png", [row([1, 2, 1, 2])])
    two = draw(tmp_path / "two.png", [row([1, 2, 1, 2]), row([1])])
    wide = draw(tmp_path / "wide.png", [row([1, 2, 1, 2, 2, 2])])
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] - one.shape[0] > 192
    assert wide.shape[0] == one.shape[0]
    assert wide.shape[1] - one.shape[1] > 2 * 96


def test_right_and_wrong_differ_by_frame_and_by_mark(tmp_path):
    right = draw(tmp_path / "right.png", [row([1, 1, 1, 1])])
    wrong = draw(tmp_path / "wrong.png", [row([2, 2, 2, 2])])
    green = np.all(right == (0, 130, 60), axis=2)
    red = np.all(wrong == (200, 30, 30), axis=2)
    assert green.sum() > 4 * 4 * 2 * 192  # four frames 4 pixels wide
    assert red.sum() > 4 * 4 * 2 * 192
    assert not np.all(right == (200, 30, 30), axis=2).any()
    assert not np.all(wrong == (0, 130, 60), axis=2).any()
    # Frames are equal; ticks and crosses differ, so marks do not depend on colour.
    assert 4 * 20 < np.sum(green != red) < 4 * 20 * 20


def test_images_are_shown_whole_and_in_order(tmp_path):
    def flat(colour):
        return np.full(
            (50, 100, 3), colour, np.uint8
        )  # landscape: must be neither stretched nor cut

    blue, yellow = (0, 0, 250), (250, 250, 0)
    gallery = [Person(flat(blue), 1, None), Person(flat(yellow), 2, None)]
    rows = [RankedList(Person(GREY, 1, None), None, gallery)] * 2
    sheet = draw(tmp_path / "sheet.png", rows)
    columns = [np.flatnonzero(np.all(sheet == c, axis=2).any(axis=0)) for c in (blue, yellow)]
    assert columns[0].max() < columns[1].min()
    assert [np.ptp(c) + 1 for c in columns] == [96, 96]
    assert np.all(sheet == blue, axis=2).sum() == 2 * 96 * 48


def test_a_query_without_gallery_is_drawn(tmp_path):
    assert draw(tmp_path / "none.png", [row([])]).shape[1] > 96


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no ranked lists to draw"),
        ([row([1], GREY / 255)], r"shape \(128, 64, 3\) and dtype float64: must be"),
        ([row([1], GREY[..., 0])], r"shape \(128, 64\) and dtype uint8"),
        ([row([1], GREY[:0])], r"shape \(0, 64, 3\)"),
    ],
)
def test_wrong_input_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        draw_ranked_lists(tmp_path / "x.png", rows, **TITLE)
    assert not list(tmp_path.iterdir())
