"""Images of other shapes than people: the size that fits, and pictures in their own shape."""

import re

import cv2
import numpy as np
import pytest
from support.tiny_datasets import write_tree

from batnet_jax.config import default_config
from batnet_jax.data import load_dataset
from batnet_jax.data.checks import fitting_size, median_aspect
from batnet_jax.data.dataset import Split, concatenate
from batnet_jax.data.loading.loader import ImageStore
from batnet_jax.data.run_data import open_run_data
from batnet_jax.models.part_streams import part_sampling_matrix
from batnet_jax.modes.train import tell_shape
from batnet_jax.validation import validate


@pytest.mark.parametrize(
    ("aspect", "size", "fitting"),
    [
        (1.0, (128, 64), (96, 96)),
        (1.0, (256, 128), (176, 176)),
        (0.5, (128, 64), (64, 128)),
        (2.0, (128, 64), None),
        (2.6, (128, 64), None),  # CUHK03
        (1.5, (256, 128), None),
        (4.0, (128, 64), (176, 48)),
        (1000.0, (128, 64), (256, 32)),
        (0.001, (128, 64), (32, 256)),
        (1.0, (16, 16), None),
    ],
)
def test_the_size_that_fits(aspect, size, fitting):
    assert fitting_size(aspect, size) == fitting


def test_the_median_shape():
    assert median_aspect(np.array([[10, 10], [40, 20], [90, 10]])) == 2


def image(height, width, number):
    pixels = np.full((height, width, 3), number, np.uint8)
    pixels[: height // 2] = 255 - number
    return cv2.imencode(".png", pixels)[1].tobytes()


def write_people(folder, height, width):
    files = {f"p{p}/{i}.png": image(height, width, 10 * p + i) for p in range(8) for i in range(4)}
    return write_tree(folder, files)


def test_prepare_tells_and_keeps_the_shapes(tmp_path, capfd):
    manual = write_people(tmp_path / "m", 30, 40)
    dataset = load_dataset("folder", data_dir=tmp_path / "d", manual_dir=manual)
    assert "  median height / width of train: 0.75" in capfd.readouterr().err
    for split in (dataset.train, dataset.query, dataset.gallery):
        assert split.shapes.tolist() == [[30, 40]] * len(split)
        assert split.take(np.array([1, 0])).shapes.tolist() == [[30, 40]] * 2
    both = concatenate([dataset.query, dataset.gallery])
    assert both.shapes.shape == (len(both), 2)


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [(128, 64), (256, 128), (384, 128)])
@pytest.mark.parametrize("aspect", [0.3, 0.5, 0.75, 1, 1.3, 3, 5])
def test_the_network_takes_the_size_that_is_advised(capsys, aspect, size, parts):
    """The parts divide the rows of the map evenly, 8 pixels a row."""
    config = default_config()
    config.data.image_size, config.model.num_parts = size, parts
    shapes = np.array([[round(100 * aspect), 100]])
    split = Split(*[np.zeros(1, int)] * 2, ["a"], np.zeros(1, int), [b""], "", shapes=shapes)
    tell_shape(config, split)
    said = re.search(r"--config.data.image_size=([0-9]+),([0-9]+) keeps", capsys.readouterr().out)
    if said:
        config.data.image_size = height, width = int(said[1]), int(said[2])
        validate(config)
        if parts:
            part_sampling_matrix(parts, height // 8, "paper")
        before, after = (aspect / (h / w) for h, w in (size, (height, width)))
        assert abs(np.log(after)) < abs(np.log(before))
    else:
        assert 1 / 1.4 < aspect / (size[0] / size[1]) < 1.4 or parts in (3, 5, 6)


@pytest.mark.parametrize(("shape", "told"), [((40, 40), True), ((60, 30), False)])
def test_training_tells_the_size_that_fits(tmp_path, capsys, shape, told):
    config = default_config()
    config.data.dir = str(tmp_path / "d")
    config.data.dataset = "folder"
    config.data.manual_dir = str(write_people(tmp_path / "m", *shape))
    images = open_run_data(config).train.images
    tell_shape(config, images)
    text = capsys.readouterr().out
    assert ("--config.data.image_size=192,192 keeps their shape" in text) == told
    config.data.image_size = (192, 192) if told else (256, 128)
    tell_shape(config, images)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((40, 40), (40, 40)), ((400, 400), (192, 192)), ((30, 900), (6, 192)), ((800, 4), (384, 2))],
)
def test_pictures_show_images_in_their_own_shape(tmp_path, shape, shown):
    manual = write_people(tmp_path / "m", *shape)
    split = load_dataset("folder", data_dir=tmp_path / "d", manual_dir=manual).train
    with ImageStore(split, image_size=(64, 32)) as store:
        images = store.originals(np.array([2, 0]), (384, 192))
    assert [one.shape for one in images] == [(*shown, 3)] * 2
    for row, one in zip((2, 0), images, strict=True):
        p, i = split.filenames[row][1], split.filenames[row][3]
        assert one[-1, 0].tolist() == [10 * int(p) + int(i)] * 3
