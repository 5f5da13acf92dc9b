"""A workdir of a tiny network, and photos of many kinds, for the tests of embedding."""

import io

import cv2
import numpy as np
from PIL import Image

from batnet_jax.config import default_config
from batnet_jax.data.loading.loader import decode
from batnet_jax.step.train_step import init_state, make_recipe
from batnet_jax.workdir import checkpoints

IDENTITIES = [["pedestrians", 0, ""]] * 3
rng = np.random.default_rng(0)
PIXELS = rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)


def small_config(folder):
    """Return the config of a tiny network, with prepared data in `folder`."""
    c = default_config()
    c.data.dataset, c.data.variant, c.data.dir = "pedestrians", "tiny", str(folder / "data")
    c.data.image_size = (64, 32)
    c.model.width, c.model.num_parts, c.model.embedding_dim = 0.0625, 1, 16
    c.model.backbone = "toy"
    c.eval.batch = 6
    return c


def write_run(workdir):
    """Write checkpoints 3 and 7 of a tiny network that was never trained; return the workdir."""
    config = small_config(workdir)
    with checkpoints.open_manager(workdir, keep=2) as manager:
        for step in (3, 7):
            config.seed = step
            recipe = make_recipe(config, num_identities=3, steps_per_epoch=1)
            state = init_state(recipe, config.data.image_size)
            state = state.replace(step=np.int32(step))
            checkpoints.save(manager, step, state, checkpoints.metadata(config, IDENTITIES))
    return workdir


def laid_on_white(colours, opacity):
    """Mix each pixel with white by its opacity: [h, w, 3] uint8."""
    share = opacity / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def write_photos(folder):
    """Fill a folder with 13 images of many kinds, and with two other files.

    Returns: the sorted paths of the images, and the pixels of each, RGB.
    """
    rgb = Image.fromarray(PIXELS)
    grey = Image.fromarray(PIXELS[:, :, 0])
    alpha = Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, 1]]))
    deep = (PIXELS[:, :, ::-1].astype(np.uint16) << 8) + 77
    exif = Image.Exif()
    exif[0x112] = 6  # turn it clockwise to see it upright

    def encode(image, form, **options):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    upright = decode(encode(rgb, "JPEG", quality=95), (40, 24))
    files = {
        "a.png": (encode(rgb, "PNG"), PIXELS),
        "b/grey.png": (encode(grey, "PNG"), np.repeat(PIXELS[:, :, :1], 3, 2)),
        "b/rgba.PNG": (encode(alpha, "PNG"), laid_on_white(PIXELS, PIXELS[:, :, 1:2])),
        "c/deep.png": (cv2.imencode(".png", deep)[1].tobytes(), PIXELS),
        "c/turned.jpg": (encode(rgb, "JPEG", quality=95, exif=exif), np.rot90(upright, -1)),
        "palette.png": (encode(grey.convert("P"), "PNG"), np.repeat(PIXELS[:, :, :1], 3, 2)),
        "x.bmp": (encode(rgb.crop((0, 0, 1, 1)), "BMP"), PIXELS[:1, :1]),
    }
    files |= {
        f"z{i}.png": (encode(rgb.rotate(i), "PNG"), np.asarray(rgb.rotate(i))) for i in range(6)
    }
    for name, (content, _) in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image either")
    return [str(folder / name) for name in files], [pixels for _, pixels in files.values()]
