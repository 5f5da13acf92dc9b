"""Pictures of an evaluation and of the report show square things square."""

import cv2
import numpy as np
import pytest
from support.tiny_datasets import write_tree

from batnet_jax.config import default_config
from batnet_jax.data.run_data import open_tests
from batnet_jax.evaluation.evaluate import sample_ranked_lists
from batnet_jax.evaluation.ranked_test import rank_test
from batnet_jax.modes.report_lists import hardest_identities, make_cards


class Shapes:
    """Stand in for `Thumbnails`: keep the shapes of the images added."""

    def __init__(self):
        self.seen = set()

    def add(self, image):
        self.seen.add(image.shape)
        return "t"


def embed(images):
    features = images.reshape(len(images), -1, 3).mean(1, dtype=np.float32) + 1
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("shape", [(48, 48), (20, 50)])
def test_own_shapes(tmp_path, shape):
    rng = np.random.default_rng(0)
    files = {
        f"p{p}/{i}.png": cv2.imencode(".png", rng.integers(0, 256, (*shape, 3)))[1].tobytes()
        for p in range(8)
        for i in range(4)
    }
    config = default_config()
    config.data.dataset, config.data.dir = "folder", str(tmp_path / "d")
    config.data.manual_dir = str(write_tree(tmp_path / "m", files))
    config.data.image_size = (64, 32)
    (test,) = open_tests(config)
    thumbnails = Shapes()
    with rank_test(config, test, embed, breakdown=True) as ranked:
        lists = sample_ranked_lists(ranked)
        make_cards(ranked, {0: ["worst"], 1: ["best"]}, thumbnails)
        hardest_identities(ranked, thumbnails)
    images = [person.image for one in lists for person in (one.query, *one.gallery)]
    assert {image.shape for image in images} == {(*shape, 3)}
    assert thumbnails.seen == {(*shape, 3)}
