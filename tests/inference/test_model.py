"""`load` and `Model.embed`: checkpoints, images of any kind, and mistakes."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.tiny_run import PIXELS, small_config, write_photos, write_run

import batnet_jax
from batnet_jax.data.run_data import open_store, open_tests
from batnet_jax.errors import UserError
from batnet_jax.evaluation.embed import extract_features, make_embed
from batnet_jax.inference import model as model_module
from batnet_jax.inference.loading import load_with_config
from batnet_jax.inference.restore import restore_network
from batnet_jax.models import googlenet
from batnet_jax.runtime import devices
from batnet_jax.workdir import checkpoints


@pytest.fixture(scope="module")
def short():
    """Shorten each block to one inception, like `short_backbone`, which saves compile time."""
    with pytest.MonkeyPatch.context() as patch:
        for block, inceptions in ((2, ("3a",)), (3, ("4a",)), (4, ())):
            patch.setitem(googlenet.BLOCK_INCEPTIONS, block, inceptions)
        yield


@pytest.fixture(scope="module")
def run(short, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run):
    return batnet_jax.load(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return folder, *write_photos(folder)


def test_features_equal_those_of_an_evaluation(run, model, tmp_path):
    """Decoding, step and batch are the same, so the features agree to the last bit."""
    config = small_config(run)
    network, variables = restore_network(config, run, 7)
    query = open_tests(config)[0].query
    with open_store(config, query) as store:
        wanted = extract_features(
            store, make_embed(network, variables), batch=devices.round_up(6), name="query"
        )
    for i, name in enumerate(query.filenames):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(query.encoded(i))
    got = model.embed(tmp_path)
    assert sorted(query.filenames) == list(query.filenames)
    np.testing.assert_array_equal(got, wanted)


def test_halves_have_unit_length(model, photos):
    _, paths, _ = photos
    features = model.embed(paths)
    assert (features.dtype, features.shape) == (np.float32, (13, 32))
    assert model.dim == 32
    for half in np.split(features, 2, axis=1):
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)  # of float32


def test_all_ways_to_name_images_agree(model, photos, tmp_path):
    folder, paths, pixels = photos
    listed = folder / "list.txt"
    lines = ["# mine", *(path.removeprefix(f"{folder}/") for path in paths), ""]
    listed.write_text("\n".join(lines))
    wanted = model.embed(folder)
    same = {
        "a list of paths": paths,
        "an array of paths": np.array(paths),
        "a list file": listed,
        "arrays of many sizes": pixels,
        "a generator": iter(pixels),
        "Pillow's": [Image.fromarray(np.ascontiguousarray(array)) for array in pixels],
    }
    for name, images in same.items():
        np.testing.assert_array_equal(model.embed(images), wanted, err_msg=name)
    listed.unlink()
    alike = [
        pixels[0],
        np.dstack([pixels[0], np.full_like(pixels[0][:, :, 0], 255)]),
        pixels[0].astype(np.uint16) << 8,
    ]
    np.testing.assert_array_equal(model.embed(alike), wanted[[0, 0, 0]])
    np.testing.assert_array_equal(model.embed(pixels[1][:, :, 0]), wanted[1:2])
    np.testing.assert_array_equal(model.embed(np.stack([PIXELS] * 3)), wanted[[0, 0, 0]])
    np.testing.assert_array_equal(model.embed(paths[0]), wanted[:1])


def test_orders_of_colours_and_boxes(model, photos):
    _, paths, pixels = photos
    wanted = model.embed(pixels)
    bgr = [array[..., ::-1] for array in pixels]
    np.testing.assert_array_equal(model.embed(bgr, channels="bgr"), wanted)
    parts = np.concatenate(list(model.embed_parts(bgr, channels="bgr")))
    np.testing.assert_array_equal(parts, wanted)
    height, width = pixels[0].shape[:2]
    boxes = [(0, 0, width, height), (2, 3, 15, 29)]
    crops = [pixels[0], pixels[0][3:29, 2:15]]
    wanted = model.embed(crops)
    np.testing.assert_array_equal(model.embed(paths[0], boxes=boxes), wanted)
    np.testing.assert_array_equal(model.embed(pixels[0], boxes=np.array(boxes, np.float32)), wanted)
    np.testing.assert_array_equal(model.embed(bgr[0], boxes=boxes, channels="bgr"), wanted)
    assert model.embed(pixels[0], boxes=[]).shape == (0, 32)


def test_any_number_of_images_needs_one_compilation(run, photos):
    _, _, pixels = photos
    model = batnet_jax.load(run)
    whole = model.embed(pixels)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("jax._src.interpreters.pxla.logger.log", lambda *a: compiled.append(a))
        for count in (1, 5, 6, 7, 13):
            # Batches are padded to one shape, and features do not depend on the rest of a batch.
            np.testing.assert_array_equal(model.embed(pixels[:count]), whole[:count])
    assert compiled == []
    assert model.embed([]).shape == (0, 32)


def test_batches_are_embedded_one_by_one(model):
    """The first batch comes before the 6,000 images are resized: memory holds a few batches."""
    batches = model.embed_parts(np.broadcast_to(PIXELS, (6000, *PIXELS.shape)))
    first = next(batches)
    batches.close()
    assert first.shape == (6, 32)


def test_all_ways_to_name_a_checkpoint_agree(run, tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "make_embed", lambda _, variables, **_options: variables)
    _, wanted = restore_network(small_config(run), run, 7)
    places = {
        "a workdir": run,
        "its name": str(run),
        "a checkpoint": run / "checkpoints" / "7",
        "a copy of one": shutil.copytree(run / "checkpoints" / "7", tmp_path / "best"),
        "a copied run": shutil.copytree(run / "checkpoints", tmp_path / "w" / "checkpoints").parent,
    }
    for name, place in places.items():
        loaded = batnet_jax.load(place)
        assert (loaded.step, loaded.image_size, loaded.config.model.width) == (7, (64, 32), 0.0625)
        jax.tree.map(partial(np.testing.assert_array_equal, err_msg=name), loaded._embed, wanted)
    earlier = batnet_jax.load(run, step=3)
    assert repr(earlier) == "Model(step=3, image_size=64x32, dim=32)"
    kernels = [
        tree["params"]["part_head"]["embedding"]["kernel"] for tree in (earlier._embed, wanted)
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_a_smaller_batch_changes_only_the_rounding(run, model, photos):
    _, paths, _ = photos
    one = batnet_jax.load(run, batch=1)
    np.testing.assert_allclose(one.embed(paths[:3]), model.embed(paths[:3]), atol=1e-5)  # float32


def test_an_older_checkpoint_takes_its_settings_from_the_workdir(run, tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "make_embed", lambda *_, **_options: None)
    whole = checkpoints.restore_metadata(run, 7)
    monkeypatch.setattr(
        checkpoints, "restore_metadata", lambda *_: {k: whole[k] for k in ("model", "identities")}
    )
    with pytest.raises(UserError, match=r"config\.json"):
        batnet_jax.load(run)
    old = shutil.copytree(run, tmp_path / "old")
    saved = json.loads(small_config(run).to_json())
    del saved["profile"], saved["model"]["kernel"]  # fields newer than the run
    (old / "config.json").write_text(json.dumps(saved | {"gone": 1}))
    loaded = batnet_jax.load(old)
    assert (loaded.image_size, loaded.config.model.kernel) == ((64, 32), "bilinear")


def test_mistakes_are_named(run, model, photos, tmp_path):
    folder, paths, _ = photos
    cut, empty = tmp_path / "cut.png", tmp_path / "empty"
    cut.write_bytes(Path(paths[0]).read_bytes()[:-20])
    empty.mkdir()
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    cases = {
        "no image": lambda: model.embed(empty),
        "is cut off": lambda: model.embed([paths[0], cut]),
        "text.jpg' cannot be decoded": lambda: model.embed([text]),
        "nowhere.jpg' cannot be read": lambda: model.embed([tmp_path / "nowhere.jpg"]),
        "no/such' does not exist": lambda: model.embed(tmp_path / "no/such"),
        "dtype float64": lambda: model.embed(np.zeros((2, 8, 8, 3))),
        r"shape \(8, 8, 2\)": lambda: model.embed([np.zeros((8, 8, 2), np.uint8)]),
        "image 1 cannot be decoded": lambda: model.embed([PIXELS, b"no image"]),
        "no image matches": lambda: model.embed(f"{folder}/*.txt"),
        "'gbr' is not one of rgb, bgr": lambda: model.embed([PIXELS], channels="gbr"),
        "is for arrays": lambda: model.embed(paths, channels="bgr"),
        "no area": lambda: model.embed(PIXELS, boxes=[(3, 3, 3, 9)]),
        "images are int": lambda: model.embed(3),
        "no checkpoint": lambda: batnet_jax.load(empty),
        "choose from 3, 7": lambda: batnet_jax.load(run, step=5),
        "by itself": lambda: batnet_jax.load(run / "checkpoints/7", step=3),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message) as info:
            call()
        assert "\n" not in str(info.value)


def test_a_later_version_is_refused(run, monkeypatch):
    whole = checkpoints.restore_metadata(run, 7)
    monkeypatch.setattr(
        checkpoints, "restore_metadata", lambda *_: whole | {"model": whole["model"] | {"wings": 2}}
    )
    with pytest.raises(UserError, match=r"model\.wings"):
        batnet_jax.load(run)


def test_another_image_size_is_refused(run):
    config = small_config(run)
    config.data.image_size = (32, 64)
    with pytest.raises(UserError, match=r"trained on images of \(64, 32\)"):
        load_with_config(config, run)
