"""Every setting with its default: the paper's where it speaks, else the published code's.

Each comment ends with the source: (paper), (published code) or (ours). `configs/*.py` start from
`default_config()` and change what their data set needs.
"""

import ml_collections


def default_config() -> ml_collections.ConfigDict:
    """The settings of the paper for Market-1501, DukeMTMC-reID and MSMT17.

    Locked: a config that sets a field that is not here is refused.
    """
    c = ml_collections.ConfigDict()
    c.seed = 0  # of initialisation, sampling, augmentation and dropout (ours)
    c.num_epochs = 300  # (paper, 4.4)
    c.steps = 0  # stop after this many steps in all; 0 = after num_epochs (ours)

    c.learning_rate = 5e-4  # Adam's, at the start; CUHK03: 1e-3 (paper, 4.4)
    c.schedule = "piecewise"  # piecewise | cosine, down to 0 at num_epochs (paper, 4.4)
    c.decay_epochs = (150, 200, 250)  # epochs, from 0, at which the rate is multiplied (paper, 4.4)
    c.decay_factor = 0.1  # by which it is multiplied (paper, 4.4)
    c.warmup_epochs = 0  # in which the rate rises linearly, of either schedule; 0 = none (paper)
    c.warmup_factor = 0.1  # of the rate, where the warm-up starts (ours)
    c.beta1 = 0.9  # Adam's (paper, 4.4)
    c.beta2 = 0.999  # Adam's (paper, 4.4)
    c.weight_decay = 1e-4  # L2 added to the gradient of all parameters (paper, 4.4; published code)

    c.data = data = ml_collections.ConfigDict()
    data.dataset = "market1501"  # one of batnet_jax.data.DATASETS (ours)
    data.variant = (
        ""  # cuhk03 labeled|detected, msmt17 v1|v2, ...; "" = the first, or what is there (ours)
    )
    data.train = ()  # several data sets, as in "'market1501','msmt17:v2'"; () = dataset (ours)
    data.manual_dir = "data/manual"  # where the user has put the archive or its folder (ours)
    data.dir = "data"  # where prepared data sets are written (ours)
    data.image_size = (256, 128)  # height, width in pixels (paper, 4.4)
    data.val_identities = 0.0  # share of the training identities held out to select on (ours)
    data.own_val = False  # hold out msmt17's own val images, which the paper trains on (ours)
    data.cache_gb = 4.0  # keep decoded training images in memory up to this; 0 = never (ours)
    data.disk_cache_gb = 50.0  # or else on disk, in data.dir, up to this much; 0 = never (ours)
    data.workers = 2  # decoding threads (ours)

    c.init = init = ml_collections.ConfigDict()
    init["from"] = ""  # start from these weights: .pth, .safetensors or a workdir (paper, 4.4)

    c.batch = batch = ml_collections.ConfigDict()
    batch.identities = 16  # P, of a global batch (published code)
    batch.images_per_identity = 4  # K (published code)
    batch.accumulate = (
        1  # parts of a device's batch, run in turn to save memory; losses see all of it (ours)
    )

    c.model = model = ml_collections.ConfigDict()
    model.attention = "aia"  # aia (Eq. 5) | plain (Eq. 6) | none (paper)
    model.position = (
        "p2"  # of the attention: p1..p4, after Blk1..4 (stages 1..4); several: p2,p3 (paper, 5.3)
    )
    model.kernel = "bilinear"  # second stage: bilinear (Eq. 2) | linear | rff (paper, 3.1)
    model.rff_factor = 4  # rff: random features for each channel of the embedding (published code)
    model.rff_bandwidth = 0.58  # rff: Gaussian's width over sqrt(c / r), see bi_attention.py (ours)
    model.backbone = (
        "published"  # published | torchvision | torchvision_raw (GoogLeNets) | resnet50 (ours)
    )
    model.reduction = 4  # r; CUHK03: 8 (paper, 4.4)
    model.num_parts = 4  # T; 0 = the appearance extractor alone (paper, 4.4)
    model.part_sampling = "paper"  # paper (crop, resize) | published (affine grid) (paper, 4.2)
    model.neck = "none"  # none | bnneck: BN between what triplets compare and scores (paper, 4.4)
    model.embedding_dim = (
        512  # of f_a and of f_p; 0, with a bnneck: the pooled map itself (paper, 4.4)
    )
    model.dropout = 0.1  # rate in the heads (published code)
    model.width = 1.0  # multiplier of the backbone's channels; 1 = the paper's (ours)
    model.sync_batch_norm = True  # batch statistics over all devices (ours)
    model.dtype = "float32"  # float32 | bfloat16, of activations; Blk4 hands on float32 (ours)

    c.loss = loss = ml_collections.ConfigDict()
    loss.margin = 1.0  # of the triplet loss, Euclidean distance (published code)
    loss.num_negatives = 5  # hardest negatives an anchor; 1 = batch-hard (paper, 4.3)
    loss.label_smoothing = 0.1  # of the cross-entropy; 0 = none (published code)

    c.augment = augment = ml_collections.ConfigDict()
    augment.enlarge_probability = 0.5  # of enlarging to 9/8 and cropping (published code)
    augment.erasing_probability = 0.5  # of random erasing (published code)
    augment.erasing_start_epoch = 50  # from 0; none before (paper, 4.4)

    c.eval = evaluation = ml_collections.ConfigDict()
    evaluation.datasets = ()  # data sets to test on; () = those trained on (ours)
    evaluation.every_epochs = 0  # evaluate while training; 0 = at the end only (paper, 4.4)
    evaluation.step = (
        0  # the checkpoint that eval, report, export restore; 0 = latest, -1 = best on val (ours)
    )
    evaluation.batch = 64  # images a step of embedding, over all devices (ours)
    evaluation.ap = (
        "precision"  # average precision: precision (mean at the hits) | trapezoid (ours)
    )
    evaluation.same_camera = (
        "remove"  # remove | keep the query's own camera's images; kept if unknown (published code)
    )
    evaluation.multi_query = (
        "none"  # none | mean | max, over Market-1501's gt_bbox of query and camera (ours)
    )
    evaluation.breakdown = False  # also figures for each camera and identity (ours)
    evaluation.bootstrap = 0  # samples for confidence intervals, 0 = none (ours)
    evaluation.rerank = False  # also figures after re-ranking, Zhong et al., CVPR 2017 (ours)
    evaluation.expand = (
        0  # also figures of queries averaged with so many first finds, Chum, ICCV 2007 (ours)
    )
    evaluation.expand_alpha = (
        0.0  # weight of a find: its cosine to this power, Radenovic 2018 (ours)
    )
    evaluation.single_shot = (
        0  # also CMC with one gallery image a person, mean of so many draws, as CUHK03 (ours)
    )
    evaluation.verification = False  # also error rates over all pairs, and thresholds (ours)
    evaluation.distractors = False  # add Market-1501's 500,000 distractors to the gallery (ours)

    c.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 10  # also always at the end; 0 = only then (ours)
    checkpoint.keep = 3  # the newest so many stay (ours)
    checkpoint.keep_best = 1  # and the best so many by mAP on held-out identities (ours)

    c.profile = False  # write a trace of 3 steps to the workdir's profile/ (ours)

    c.log = log = ml_collections.ConfigDict()
    log.every_steps = 10  # a line in metrics.jsonl and a point in TensorBoard (ours)
    c.lock()
    return c
