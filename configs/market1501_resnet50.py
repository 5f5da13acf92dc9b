"""A strong baseline of today on Market-1501, with Bi-attention: ResNet-50, BNNeck, cosine.

Not the paper's network. Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person
Re-identification", CVPR Workshops 2019 ("Luo" below) made the baseline that others start from: 16
x 4 images of 256 x 128, warm-up, random erasing, label smoothing, last stride 1 and BNNeck. The
cosine in place of their two steps is He et al.'s, "Bag of Tricks for Image Classification", CVPR
2019. Two things are not theirs: they pad by 10 pixels and crop where we enlarge and crop
(`config.augment`), and their center loss is left out.

No figures are expected of it: it has not been run (images and weights can't be had here), and
Luo's are not of this network. Without the Bi-attention, which they do not have, pass
--config.model.attention=none; with parts, --config.model.num_parts=2 (or another divisor of 32),
each with its own copy of the stages 3 and 4.

Data: as configs/market1501.py. Weights: Luo start from ImageNet, as all who use this; give
torchvision's `resnet50` with --config.init.from=resnet50.pth (docs/weights.md). Without it, expect
much less.

python -m batnet_jax.main --config=configs/market1501_resnet50.py --config.init.from=resnet50.pth
"""

from batnet_jax.config import default_config


def get_config():
    c = default_config()
    c.data.dataset = "market1501"
    c.num_epochs = 120  # Luo
    c.learning_rate = 3.5e-4  # Luo
    c.weight_decay = 5e-4  # Luo's code: Adam's, L2 in the gradient
    c.schedule = "cosine"  # He et al.
    c.warmup_epochs = 10  # Luo
    c.warmup_factor = 0.1  # Luo: from 3.5e-5
    c.batch.identities = 16  # Luo
    c.batch.images_per_identity = 4  # Luo
    c.model.backbone = "resnet50"
    c.model.neck = "bnneck"  # Luo
    c.model.embedding_dim = 0  # Luo: all 2048 numbers of the pooled map
    c.model.dropout = 0.0  # Luo have none
    c.model.num_parts = 0  # Luo have none
    c.model.attention = "aia"  # ours, where Fang et al. (Table 6) found it best, behind Blk2
    c.model.position = "p2"
    c.model.reduction = 4  # gives 564 million parameters at p4: there take 16
    c.loss.margin = 0.3  # Luo
    c.loss.num_negatives = 1  # Luo: batch-hard
    c.loss.label_smoothing = 0.1  # Luo
    c.augment.erasing_probability = 0.5  # Luo
    c.augment.erasing_start_epoch = 0  # Luo: from the start
    return c
