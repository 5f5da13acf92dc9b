"""BAT-net on MSMT17 (Wei et al., CVPR 2018).

Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4: Adam at
5e-4, x 0.1 at epochs 150, 200 and 250 of 300; r = 4; images of 256 x 128.

Expected, BAT-net w/ AiA: mAP 56.8, rank-1 79.5, rank-5 89.1, rank-10 91.1 (Table 4).
w/o AiA (--config.model.attention=plain): mAP 50.4, rank-1 74.1, rank-5 86.4, rank-10 89.7.
The paper's numbers; not run by us (images can't be had here). The paper starts from weights trained
on ImageNet, this from random ones: expect less. It does not name its AP convention; ours is
`config.eval.ap`.

Data: put `MSMT17_V1/` or its .zip into data/manual. For research only: get it from its authors.
The training split is list_train.txt and list_val.txt, the paper's 32,621 images. The paper's is V1;
for V2 (faces masked) pass --config.data.variant=v2.

python -m batnet_jax.main --config=configs/msmt17.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "msmt17"
    c.data.variant = "v1"
    return c
