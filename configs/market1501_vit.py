"""A vision transformer on Market-1501, in the setting of TransReID's baseline.

Setting, which is not the paper's: He et al., "TransReID: Transformer-based Object
Re-Identification", ICCV 2021, the baseline of section 3.1, and its config Market/vit_base.yml
("TransReID" below): ViT-B/16 from ImageNet weights, BNNeck, soft-margin triplets. These things
differ from TransReID:
  optimizer     Adam at 1e-5, not SGD at 8e-3
  network       no stochastic depth
  feature       behind the neck, not before it
  augmentation  enlarge and crop (`config.augment`), not pad by 10 pixels and crop

Expected: unknown, not run by us. TransReID's figures of its own program, Baseline (ViT): mAP 87.1,
rank-1 94.6 (the README of its repository).

--config.model.backbone=vit_b16_stride12 has the overlapping patches of the paper's best rows.

Data: as configs/market1501.py. Weights: timm's jx_vit_base_p16_224, trained on ImageNet
(docs/weights.md); without --config.init.from, expect much less.

python -m batnet_jax.main --config=configs/market1501_vit.py --config.init.from=vit_base_p16_224.pth
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    c.num_epochs = 120  # TransReID
    c.learning_rate = 1e-5  # ours, for Adam
    c.weight_decay = 1e-4  # TransReID
    c.schedule = "cosine"  # TransReID
    c.warmup_epochs = 5  # TransReID
    c.warmup_factor = 0.01  # TransReID
    c.batch.identities = 16  # TransReID
    c.batch.images_per_identity = 4  # TransReID
    c.model.backbone = "vit_b16"
    c.model.neck = "bnneck"  # TransReID
    c.model.embedding_dim = 0  # TransReID: the class token, 768 numbers
    c.model.dropout = 0.0  # TransReID: none
    c.model.num_parts = 0  # TransReID's baseline: none
    c.model.attention = "none"  # TransReID: none
    c.loss.function = "soft_triplet"  # TransReID
    c.loss.num_negatives = 1  # TransReID: batch-hard
    c.loss.label_smoothing = 0.0  # TransReID: none
    c.augment.erasing_probability = 0.5  # TransReID
    c.augment.erasing_start_epoch = 0  # TransReID: from the start
    return c
