"""The published weights that can be read, and the files that can be fetched, as plain data.

The module imports nothing heavy. `batnet weights` prints the tables, docs/weights.md repeats them,
and `tests/commands/test_known_weights.py` compares both and the code.
"""

from dataclasses import dataclass

IMAGENET, HALF, CLIP = "ImageNet's mean and deviation", "-1 to 1", "CLIP's mean and deviation"


@dataclass(frozen=True)
class Family:
    """Networks whose weights are read by their names.

    Attributes:
      name: of the family.
      format: of `weights.names.FORMATS`, as messages name the file.
      known_by: a tensor that shows the family, without prefixes.
      backbones: the values of `model.backbone`; a pattern with * or ? stands for several.
      images: (height, width) that is taken; some files show another.
      pixels: the preparation of pixels that is taken.
      page: where the authors publish files.
      terms: of the authors' code and, where they state any, of their files.
    """

    name: str
    format: str
    known_by: str
    backbones: tuple[str, ...]
    images: tuple[int, int]
    pixels: str
    page: str
    terms: str


@dataclass(frozen=True)
class File:
    """A file of weights that can be fetched, whose address and checksum are public.

    Attributes:
      name: in `batnet weights get NAME`.
      about: the network and its training images.
      url: of the file, of one version that does not change.
      sha256: of its bytes, hexadecimal.
      terms: as the page states them.
    """

    name: str
    about: str
    url: str
    sha256: str
    terms: str

    @property
    def suffix(self) -> str:
        """The suffix of the file, by which it is read."""
        return ".safetensors" if self.url.endswith(".safetensors") else ".pth"

    @property
    def filename(self) -> str:
        """The name of the file on the disk."""
        return self.name + self.suffix


PEOPLE = "photographs of people, for research"
"""The terms of the data sets that the weights were trained on."""

FAMILIES = (
    Family(
        "BAT-net",
        "BAT-net",
        "features.norm1_1.weight",
        ("published",),
        (256, 128),
        IMAGENET,
        "https://github.com/PengfeiFANGanu/Attention-in-Attention-Networks",
        "none stated",
    ),
    Family(
        "BAT-net's GoogLeNet",
        "published backbone",
        "features.inception1.inception_3a.conv1.0.weight",
        ("published",),
        (256, 128),
        IMAGENET,
        "https://github.com/PengfeiFANGanu/Attention-in-Attention-Networks",
        "none stated",
    ),
    Family(
        "torchvision's GoogLeNet",
        "torchvision googlenet",
        "inception3a.branch1.conv.weight",
        ("torchvision", "torchvision_raw"),
        (256, 128),
        HALF,
        "https://docs.pytorch.org/vision/stable/models.html",
        "BSD-3-Clause",
    ),
    Family(
        "torchvision's ResNet-50",
        "torchvision resnet50",
        "layer1.0.conv3.weight",
        ("resnet50",),
        (256, 128),
        IMAGENET,
        "https://docs.pytorch.org/vision/stable/models.html",
        "BSD-3-Clause",
    ),
    Family(
        "ResNet-50-IBN-a",
        "IBN-Net resnet50_ibn_a",
        "layer1.0.bn1.IN.weight",
        ("resnet50_ibn",),
        (256, 128),
        IMAGENET,
        "https://github.com/XingangPan/IBN-Net",
        "MIT",
    ),
    Family(
        "FastReID: BoT, AGW, SBS",
        "FastReID resnet50",
        "backbone.layer1.0.conv3.weight",
        ("fastreid_r50*",),
        (256, 128),
        IMAGENET,
        "https://github.com/JDAI-CV/fast-reid/blob/master/MODEL_ZOO.md",
        f"Apache-2.0; {PEOPLE}",
    ),
    Family(
        "OSNet",
        "Torchreid osnet",
        "conv2.0.conv2a.conv1.weight",
        ("osnet_x*",),
        (256, 128),
        IMAGENET,
        "https://kaiyangzhou.github.io/deep-person-reid/MODEL_ZOO",
        f"MIT; {PEOPLE}",
    ),
    Family(
        "OSNet-IBN",
        "Torchreid osnet_ibn",
        "conv2.0.IN.weight",
        ("osnet_ibn_x1_0",),
        (256, 128),
        IMAGENET,
        "https://kaiyangzhou.github.io/deep-person-reid/MODEL_ZOO",
        f"MIT; {PEOPLE}",
    ),
    Family(
        "OSNet-AIN",
        "Torchreid osnet_ain",
        "conv2.0.conv2.0.layers.0.conv1.weight",
        ("osnet_ain_x*",),
        (256, 128),
        IMAGENET,
        "https://kaiyangzhou.github.io/deep-person-reid/MODEL_ZOO",
        f"MIT; {PEOPLE}",
    ),
    Family(
        "ViT by timm's names, TransReID",
        "timm vision transformer",
        "blocks.0.attn.qkv.weight",
        ("vit_?16", "vit_?16_stride12", "vit_?16_mean"),
        (256, 128),
        HALF,
        "https://github.com/damo-cv/TransReID",
        f"MIT; {PEOPLE}",
    ),
    Family(
        "PersonViT",
        "timm vision transformer",
        "blocks.0.attn.qkv.weight",
        ("vit_?16",),
        (256, 128),
        HALF,
        "https://github.com/hustvl/PersonViT",
        f"Apache-2.0; {PEOPLE}",
    ),
    Family(
        "CLIP's image tower, ViT-B/16",
        "CLIP image tower",
        "class_embedding",
        ("vit_b16_clip", "vit_b16_clip_gelu"),
        (256, 128),
        CLIP,
        "https://github.com/openai/CLIP",
        "MIT",
    ),
    Family(
        "CLIP-ReID's image tower",
        "CLIP image tower",
        "class_embedding",
        ("vit_b16_clipreid*",),
        (256, 128),
        HALF,
        "https://github.com/Syliz517/CLIP-ReID",
        f"MIT; {PEOPLE}",
    ),
    Family(
        "DINO",
        "timm vision transformer",
        "blocks.0.attn.qkv.weight",
        ("vit_?16_dino",),
        (256, 128),
        IMAGENET,
        "https://github.com/facebookresearch/dino",
        "Apache-2.0",
    ),
    Family(
        "DINOv2",
        "timm vision transformer",
        "blocks.0.ls1.gamma",
        ("vit_?14_dinov2*",),
        (256, 128),
        IMAGENET,
        "https://github.com/facebookresearch/dinov2",
        "Apache-2.0",
    ),
)

_TORCHREID = (
    "https://huggingface.co/kaiyangzhou/osnet/resolve/a5c5cc037c24235cda3b21085b93ad77c9616224/"
    "{}_msmt17_combineall_256x128_amsgrad_ep150_stp60_lr0.0015_b64_fb10_softmax_labelsmooth_"
    "flip_jitter.pth"
)
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"

FILES = (
    File(
        "osnet_x1_0_msmt17",
        "OSNet x1.0, all images of MSMT17",
        _TORCHREID.format("osnet_x1_0"),
        "48df972f72887b95cf3b43b3a07c3a7d2398381aea0f9cae64a7ef11d512b727",
        f"MIT; {PEOPLE}",
    ),
    File(
        "osnet_x0_25_msmt17",
        "OSNet x0.25, all images of MSMT17",
        _TORCHREID.format("osnet_x0_25"),
        "cf55163d78fc44c62c82f85ab62d39f10438679b5abe8c698ae08cfa84aa6e18",
        f"MIT; {PEOPLE}",
    ),
    File(
        "resnet50_imagenet_v1",
        "torchvision's ResNet-50, ImageNet",
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        "BSD-3-Clause",
    ),
    File(
        "resnet50_imagenet_v2",
        "torchvision's ResNet-50, ImageNet, newer recipe",
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
        "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
        "BSD-3-Clause",
    ),
    File(
        "googlenet_imagenet",
        "torchvision's GoogLeNet, ImageNet",
        "https://download.pytorch.org/models/googlenet-1378be20.pth",
        "1378be20a8e875cf1568b8a71654e704449655e34711a959a38b04fb34905cef",
        "BSD-3-Clause",
    ),
    File(
        "resnet50_ibn_a_imagenet",
        "ResNet-50-IBN-a, ImageNet",
        "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth",
        "d9d0bb7b2ba34d7e6e12c4616c9d233914762e49fbb9fcb49d7f4d65da6f759c",
        "MIT",
    ),
    File(
        "dinov2_vits14",
        "DINOv2 ViT-S/14, without labels",
        _DINOV2.format("dinov2_vits14"),
        "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
        "Apache-2.0",
    ),
    File(
        "dinov2_vitb14",
        "DINOv2 ViT-B/14, without labels",
        _DINOV2.format("dinov2_vitb14"),
        "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
        "Apache-2.0",
    ),
    File(
        "clip_vit_b16",
        "CLIP ViT-B/16 of OpenAI, image and text, in timm's repository",
        "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/resolve/"
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d/open_clip_model.safetensors",
        "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f",
        "MIT",
    ),
)
