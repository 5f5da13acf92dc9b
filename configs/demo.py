"""The demo: the whole of BAT-net, narrow and on small images, on the embedded `pedestrians`.

`make demo`, or `python -m batnet_jax.main --config=configs/demo.py`. Minutes on 2 CPU cores;
`docs/pedestrians.md` shows what it reaches.
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "pedestrians"
    c.data.variant = "demo"
    c.data.image_size = (128, 64)
    c.model.width = 0.25
    c.batch.identities = 8
    c.steps = 600
    c.decay_epochs = (6,)  # of 75 steps
    c.learning_rate = 3e-3
    c.checkpoint.every_epochs = 4
    return c
