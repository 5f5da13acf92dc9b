"""The demo: all of BAT-net on the embedded data set `pedestrians`, narrow and with small images.

Takes minutes on 2 CPU cores; `docs/pedestrians.md` has the figures.

make demo, or
python -m batnet_jax.main --config=configs/demo.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "pedestrians"
    c.data.variant = "demo"
    c.data.image_size = (128, 64)
    c.model.width = 0.25
    c.batch.identities = 8
    # From scratch and in few steps: a high rate until the last epoch (docs/training.md).
    c.steps = 975  # 13 epochs of 75 steps
    c.learning_rate = 3e-3
    c.warmup_epochs = 2
    c.decay_epochs = (12,)
    c.checkpoint.every_epochs = 4
    return c
