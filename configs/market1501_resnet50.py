"""Bi-attention in a strong baseline on Market-1501: ResNet-50, BNNeck, cosine schedule.

Setting, which is not the paper's: Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
Re-identification", CVPR Workshops 2019 ("Luo" below). 16 x 4 images of 256 x 128, warm-up, random
erasing, label smoothing, last stride 1 and BNNeck. Three things differ from Luo:
  schedule      cosine of He et al., "Bag of Tricks for Image Classification", CVPR 2019, not steps
  augmentation  enlarge and crop (`config.augment`), not pad by 10 pixels and crop
  losses        no center loss

Expected: unknown. This config has not been run, as we have neither the images nor the weights, and
Luo's figures are of another network. Luo have no Bi-attention: --config.model.attention=none leaves
it out. --config.model.num_parts=2, or another divisor of 32, adds parts, each with its own copy of
stages 3 and 4.

Data: as configs/market1501.py. Weights: torchvision's `resnet50`, trained on ImageNet, as Luo
(docs/weights.md); without --config.init.from, expect much less.

python -m batnet_jax.main --config=configs/market1501_resnet50.py --config.init.from=resnet50.pth
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    c.num_epochs = 120  # Luo
    c.learning_rate = 3.5e-4  # Luo
    c.weight_decay = 5e-4  # Luo's code: L2 in the gradient, as ours
    c.schedule = "cosine"  # He et al.
    c.warmup_epochs = 10  # Luo
    c.warmup_factor = 0.1  # Luo: from 3.5e-5
    c.batch.identities = 16  # Luo
    c.batch.images_per_identity = 4  # Luo
    c.model.backbone = "resnet50"
    c.model.neck = "bnneck"  # Luo
    c.model.embedding_dim = 0  # Luo: the pooled map, 2048 numbers
    c.model.dropout = 0.0  # Luo: none
    c.model.num_parts = 0  # Luo: none
    c.model.attention = "aia"  # ours; at the best position of Fang et al., Table 6
    c.model.position = "p2"
    c.model.reduction = 4  # at p4, take 16: 4 would make 564 million parameters
    c.loss.margin = 0.3  # Luo
    c.loss.num_negatives = 1  # Luo: batch-hard
    c.loss.label_smoothing = 0.1  # Luo
    c.augment.erasing_probability = 0.5  # Luo
    c.augment.erasing_start_epoch = 0  # Luo: from the start
    return c
