"""BAT-net on images of your own: a narrow network, small images.

Data: a sub-folder for each identity, with folders of cameras above or below it if you like; or
folders of train, query and gallery, or train and test, where file names may begin with the identity
and the camera, as in 0001_c2_anything.jpg (docs/data.md). A query is not compared with images of
the same identity and the same camera. If no camera is found, a query is compared with all images.

The network and the images suit two CPU cores. The length of the run, its schedule and the batch
follow from the size of the training set (`config.fit`), and a line says what was chosen: at least
1000 steps and 20 epochs, a high learning rate after a warm-up, erasing after a quarter of the run.
The rate decays only in runs of over 2000 steps (docs/training.md). A run that starts from weights
(`init.from`) takes the paper's rate and decays. Fields given at the command line stay. The paper's
settings are --config.fit=none --config.model.width=1 --config.data.image_size=256,128
--config.batch.identities=16 --config.learning_rate=5e-4 --config.num_epochs=300
--config.augment.erasing_start_epoch=50.

python -m batnet_jax.main --config=configs/folder.py --config.data.manual_dir=DIR_OR_ZIP
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "folder"
    c.data.image_size = (128, 64)
    c.model.width = 0.25
    c.batch.identities = 8
    c.fit = "all"
    c.num_epochs = 20  # of a set that is not small; see batnet_jax/training/fitted.py
    c.learning_rate = 3e-3  # as the demo's
    c.augment.erasing_start_epoch = 5
    c.checkpoint.every_epochs = 5
    return c
