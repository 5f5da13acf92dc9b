"""BAT-net on CUHK03, boxes drawn by hand (Li et al., CVPR 2014), new protocol.

Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4: Adam at
1e-3, x 0.1 at epochs 150, 200 and 250 of 300; r = 8; images of 256 x 128.

Expected, BAT-net w/ AiA: mAP 76.1, rank-1 78.6 (Table 1).
w/o AiA (--config.model.attention=plain): mAP 72.0, rank-1 74.2.
The paper's numbers; not run by us (images can't be had here). The paper starts from weights trained
on ImageNet, this from random ones: expect less. It does not name its AP convention; ours is
`config.eval.ap`.

Data: put `cuhk03-np/` (folders of PNGs), or `cuhk03_release/cuhk-03.mat` with the file
`cuhk03_new_protocol_config_labeled.mat`, or a .zip or .tar of either, into data/manual. New
protocol: Zhong et al., CVPR 2017; the splits of Li et al. are the variants labeled-classic-1 to
-20. For research only: get it from its authors.

python -m batnet_jax.main --config=configs/cuhk03_labeled.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "cuhk03"
    c.data.variant = "labeled"
    c.learning_rate = 1e-3
    c.model.reduction = 8
    return c
