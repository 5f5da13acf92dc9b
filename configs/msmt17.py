"""BAT-net on MSMT17 (Wei et al., CVPR 2018).

Setting: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4.
Adam at 5e-4, x 0.1 at epochs 150, 200 and 250 of 300; r = 4; images of 256 x 128.

Expected (Table 4):
  BAT-net w/ AiA                            mAP 56.8, rank-1 79.5, rank-5 89.1, rank-10 91.1
  w/o AiA (--config.model.attention=plain)  mAP 50.4, rank-1 74.1, rank-5 86.4, rank-10 89.7
These are the paper's figures, not run by us, as we do not have the images. The paper starts from
weights trained on ImageNet; without --config.init.from, expect less. The paper does not name its
AP convention; `config.eval.ap` sets ours.

Data: `MSMT17_V1/` or its .zip in data/manual. For research only, from its authors. The training
images are the images of list_train.txt and list_val.txt, 32,621 as in the paper. The paper uses V1;
for V2, whose faces are masked, pass --config.data.variant=v2.

python -m batnet_jax.main --config=configs/msmt17.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "msmt17"
    c.data.variant = "v1"
    return c
