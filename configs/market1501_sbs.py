"""The stronger baseline of FastReID (SBS) on Market-1501, as far as this package has it.

Setting, which is not the paper's: He et al., "FastReID: A Pytorch Toolbox for General Instance
Re-identification", ACM MM 2023, and FastReID's configs/Base-SBS.yml ("SBS" below): ResNet-50-IBN-a,
GeM, circle loss, images of 384 x 128, a cosine. These things differ from SBS:
  losses        circle loss of pairs and cross-entropy; SBS has the circle loss of classes and
                soft-margin triplets
  network       no non-local blocks, as no ImageNet weights have them
  augmentation  no AutoAugment; enlarge and crop (`config.augment`), not pad by 10 pixels and crop
  sampling      16 x 4 images, not 4 x 16
  schedule      the cosine begins after the warm-up, not at epoch 30; all layers learn at once

Expected: unknown, not run by us. FastReID's figures of its own program, SBS(R50-ibn): mAP 89.3,
rank-1 95.7 (FastReID's MODEL_ZOO.md).

Data: as configs/market1501.py. Weights: IBN-Net's resnet50_ibn_a, trained on ImageNet
(docs/weights.md); without --config.init.from, expect much less.

python -m batnet_jax.main --config=configs/market1501_sbs.py --config.init.from=resnet50_ibn_a.pth
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    c.data.image_size = (384, 128)  # SBS
    c.num_epochs = 60  # SBS
    c.learning_rate = 3.5e-4  # SBS
    c.weight_decay = 5e-4  # SBS: L2 in the gradient, as ours
    c.schedule = "cosine"  # SBS
    c.warmup_epochs = 10  # SBS: 2000 steps of 64 images, 10 epochs
    c.warmup_factor = 0.1  # SBS
    c.batch.identities = 16  # 64 images, as SBS
    c.batch.images_per_identity = 4
    c.model.backbone = "resnet50_ibn"
    c.model.neck = "bnneck_gem"  # SBS
    c.model.embedding_dim = 0  # SBS: the pooled map, 2048 numbers
    c.model.dropout = 0.0  # SBS: none
    c.model.num_parts = 0  # SBS: none
    c.model.attention = "none"  # SBS: none
    c.loss.function = "circle"  # Sun et al.
    c.loss.margin = 0.25  # Sun et al.; SBS: 0.35, of classes
    c.loss.label_smoothing = 0.1  # SBS
    c.augment.erasing_probability = 0.5  # SBS
    c.augment.erasing_start_epoch = 0  # SBS: from the start
    return c
