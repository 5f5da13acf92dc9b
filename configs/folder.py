"""BAT-net on images of your own: a narrow network, small images.

Give each identity a sub-folder; or make `bounding_box_train/`, `query/` and `bounding_box_test/`,
where a file's name begins with the identity and the camera, as in 0001_c2_anything.jpg. More in
docs/data.md. A query is not compared with images of the same identity and the same camera; where
no name has a camera, with all.

The settings suit a small set and two CPU cores; for more, raise num_epochs and decay_epochs first.
The paper's are --config.model.width=1 --config.data.image_size=256,128
--config.batch.identities=16 --config.learning_rate=5e-4 --config.num_epochs=300
--config.decay_epochs=150,200,250. A batch has no more identities than the training folder.

python -m batnet_jax.main --config=configs/folder.py --config.data.manual_dir=DIR_OR_ZIP
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "folder"
    c.data.image_size = (128, 64)
    c.model.width = 0.25
    c.batch.identities = 8
    c.num_epochs = 8
    c.decay_epochs = (6,)
    c.learning_rate = 3e-3
    c.checkpoint.every_epochs = 2
    return c
