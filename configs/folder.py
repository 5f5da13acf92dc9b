"""BAT-net on images of your own: a narrow network, small images.

Data: a sub-folder for each identity, with folders of cameras or not; or folders of train, query
and gallery, or train and test, where file names may begin with the identity and the camera, as in
0001_c2_anything.jpg (docs/data.md). A query is not compared with images of the same identity and
the same camera. If no camera is found, a query is compared with all images.

The settings suit a small data set and two CPU cores. For a larger one, raise num_epochs and
decay_epochs first. The paper's settings are --config.model.width=1
--config.data.image_size=256,128 --config.batch.identities=16 --config.learning_rate=5e-4
--config.num_epochs=300 --config.decay_epochs=150,200,250. The training folder must have at least
as many identities as a batch.

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
