"""BAT-net on Market-1501 (Zheng et al., ICCV 2015).

Setting: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4.
Adam at 5e-4, x 0.1 at epochs 150, 200 and 250 of 300; r = 4; images of 256 x 128.

Expected (Table 2):
  BAT-net w/ AiA                            mAP 87.4, rank-1 95.1, rank-5 98.2, rank-10 98.9
  w/o AiA (--config.model.attention=plain)  mAP 85.5, rank-1 94.1, rank-5 98.2, rank-10 99.1
These are the paper's figures, not run by us, as we do not have the images. The paper starts from
weights trained on ImageNet; without --config.init.from, expect less. The paper does not name its
AP convention; `config.eval.ap` sets ours.

Data: `Market-1501-v15.09.15/` or its .zip in data/manual. For research only, from its authors.

python -m batnet_jax.main --config=configs/market1501.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    return c
