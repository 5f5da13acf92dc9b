"""BAT-net on DukeMTMC-reID (Ristani et al., ECCV Workshops 2016; Zheng et al., ICCV 2017).

Setting: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4.
Adam at 5e-4, x 0.1 at epochs 150, 200 and 250 of 300; r = 4; images of 256 x 128.

Expected (Table 3):
  BAT-net w/ AiA                            mAP 77.3, rank-1 87.7, rank-5 94.7, rank-10 96.3
  w/o AiA (--config.model.attention=plain)  mAP 75.8, rank-1 86.1, rank-5 93.9, rank-10 95.6
These are the paper's figures, not run by us, as we do not have the images. The paper starts from
weights trained on ImageNet; without --config.init.from, expect less. The paper does not name its
AP convention; `config.eval.ap` sets ours.

Data: `DukeMTMC-reID/` or its .zip in data/manual. Its authors have withdrawn the data set: this
config is for users who have a copy and may still use it. Nothing here downloads one.

python -m batnet_jax.main --config=configs/dukemtmc.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "dukemtmc_reid"
    return c
