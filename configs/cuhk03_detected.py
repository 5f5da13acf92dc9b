"""BAT-net on CUHK03, boxes of a detector (Li et al., CVPR 2014), new protocol.

Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4: Adam at
1e-3, x 0.1 at epochs 150, 200 and 250 of 300; r = 8; images of 256 x 128.

Expected, BAT-net w/ AiA: mAP 73.2, rank-1 76.2 (Table 1).
w/o AiA (--config.model.attention=plain): mAP 68.7, rank-1 71.4.
The paper's numbers; not run by us (images can't be had here). The paper starts from weights trained
on ImageNet, this from random ones: expect less. It does not name its AP convention; ours is
`config.eval.ap`.

Data: put `cuhk03-np/` (folders of PNGs), or `cuhk03_release/cuhk-03.mat` with the file
`cuhk03_new_protocol_config_detected.mat`, or a .zip or .tar of either, into data/manual. New
protocol: Zhong et al., CVPR 2017; the splits of Li et al. are the variants detected-classic-1 to
-20. For research only: get it from its authors.

python -m batnet_jax.main --config=configs/cuhk03_detected.py
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "cuhk03"
    c.data.variant = "detected"
    c.learning_rate = 1e-3
    c.model.reduction = 8
    return c
