"""OSNet on Market-1501, in the setting of its authors as far as this package has it.

Setting, which is not the paper's: Zhou et al., "Omni-Scale Feature Learning for Person
Re-Identification", ICCV 2019, and the config of their program Torchreid, im_osnet_x1_0_softmax_
256x128_amsgrad_cosine ("Zhou" below). Four things differ from Zhou:
  losses        the ranking loss of this package besides the cross-entropy
  sampling      16 x 4 images of a batch by identity, not 64 at random
  optimizer     Adam, not AMSGrad
  start         all layers learn from the first epoch, not only the head for ten epochs

Expected: unknown, not run by us. Zhou's figures of their own program: mAP 84.9, rank-1 94.8 (ICCV
2019, Table 3; with ImageNet weights).

Data: as configs/market1501.py. Weights: Torchreid's osnet_x1_0_imagenet.pth (docs/weights.md);
without --config.init.from, expect much less.

python -m batnet_jax.main --config=configs/market1501_osnet.py --config.init.from=osnet_x1_0.pth
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    c.num_epochs = 250  # Zhou
    c.learning_rate = 1.5e-3  # Zhou
    c.weight_decay = 5e-4  # Zhou: L2 in the gradient, as ours
    c.schedule = "cosine"  # Zhou
    c.batch.identities = 16  # 64 images, as Zhou
    c.batch.images_per_identity = 4
    c.model.backbone = "osnet_x1_0"
    c.model.neck = "fc"  # Zhou
    c.model.embedding_dim = 512  # Zhou
    c.model.dropout = 0.0  # Zhou: none
    c.model.num_parts = 0  # Zhou: none
    c.model.attention = "none"  # Zhou: none
    c.loss.function = "soft_triplet"  # ours, without a margin to choose
    c.loss.num_negatives = 1
    c.loss.label_smoothing = 0.1  # Zhou
    c.augment.erasing_probability = 0.5  # Zhou's command: random_erase
    c.augment.erasing_start_epoch = 0
    return c
