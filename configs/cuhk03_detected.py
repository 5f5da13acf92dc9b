"""BAT-net on CUHK03, detected boxes (Li et al., CVPR 2014), new protocol.

Setting: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, section 4.4.
Adam at 1e-3, x 0.1 at epochs 150, 200 and 250 of 300; r = 8; images of 256 x 128.

Expected (Table 1):
  BAT-net w/ AiA                            mAP 73.2, rank-1 76.2
  w/o AiA (--config.model.attention=plain)  mAP 68.7, rank-1 71.4
These are the paper's figures, not run by us, as we do not have the images. The paper starts from
weights trained on ImageNet; without --config.init.from, expect less. The paper does not name its
AP convention; `config.eval.ap` sets ours.

Data: in data/manual, `cuhk03-np/` (folders of PNGs), or `cuhk03_release/cuhk-03.mat` and
`cuhk03_new_protocol_config_detected.mat`, or a .zip or .tar of either. For research only, from its
authors. The new protocol is Zhong et al., CVPR 2017; the variants detected-classic-1 to -20 are the
20 splits of Li et al.

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
