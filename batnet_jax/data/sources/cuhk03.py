"""CUHK03 (Li et al., CVPR 2014) in the new protocol (Zhong et al., CVPR 2017) and the classic one.

The boxes are `labeled` (drawn by hand) or `detected`. Three forms are read, in this order of
preference:

1. the release CUHK03-NP: `labeled/` and `detected/`, each in Market-1501's layout, with filenames
   such as `0001_c1_12.png`; `manual_dir` may also be one of the two folders;
2. the authors' release: `cuhk-03.mat`, at the top or in `cuhk03_release/`;
3. its images as other packages unpack them: `images_labeled/`, `images_detected/`.

The first form contains the splits of the new protocol. The other two need the lists
`cuhk03_new_protocol_config_labeled.mat` and `..._detected.mat`, see `Cuhk03.find_lists`. All forms
give the same images and labels under different filenames, and so in a different order.

The classic protocol has 20 splits, stored in `cuhk-03.mat`: 100 people for the test, the others for
training. All images of the test people are both query and gallery; evaluation ignores gallery
images of the query's camera. (Published figures draw one gallery image an identity; evaluation here
uses all.)

The camera is the view, 1 or 2, of a pair of cameras. No person appears in two pairs.
"""

import posixpath
from collections.abc import Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from batnet_jax.data.builder import NO_READING, Photo, Reading, ReIDBuilder, SplitSource
from batnet_jax.data.checks import Count
from batnet_jax.data.files.find_dataset import choose_tree, find_trees
from batnet_jax.data.files.tree import FileTree, open_tree
from batnet_jax.data.sources.cuhk03_mat import NAME, MatImages, Release, read_protocol
from batnet_jax.data.sources.market import MARKERS, make_source, market_sources
from batnet_jax.errors import ArgumentError, UserError
from batnet_jax.runtime.paths import is_file, is_folder

BOXES = {"labeled": "boxes drawn by hand", "detected": "boxes of a pedestrian detector"}
CLASSIC_SPLITS = 20
RELEASE = "cuhk-03.mat"
RELEASE_FOLDERS = ("", "cuhk03_release")
LISTS = "cuhk03_new_protocol_config_{}.mat"
NP, MAT, UNPACKED = "CUHK03-NP", RELEASE, "unpacked images of cuhk-03.mat"


class Cuhk03(ReIDBuilder):
    """CUHK03: 767 people for training; query 1,400 images of 700 people.

    Labeled: 7,368 training and 5,328 gallery images; detected: 7,365 and 5,332. The classic
    protocol has 1,367 people for training and 100 for the test.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012 - as TFDS wants it
        *(tfds.core.BuilderConfig(name=name, description=text) for name, text in BOXES.items()),
        *(
            tfds.core.BuilderConfig(name=f"{name}-classic-{number}", description=text)
            for name, text in BOXES.items()
            for number in range(1, CLASSIC_SPLITS + 1)
        ),
    ]
    TITLE = "CUHK03"
    WANTED = f"cuhk03-np/ with labeled/ and detected/, or cuhk03_release/{RELEASE}"
    FOLDER_WORD = "cuhk"

    @classmethod
    def choose_config(
        cls, variant: str, manual_dir: str, reading: Reading = NO_READING
    ) -> str | tfds.core.BuilderConfig | None:
        """See the base class; the message abbreviates the 42 variants."""
        if variant and variant not in [config.name for config in cls.BUILDER_CONFIGS]:
            classic = [f"{boxes}-classic-1..{CLASSIC_SPLITS}" for boxes in BOXES]
            allowed = ", ".join([*BOXES, *classic])
            message = f"{variant!r} is not a variant of {cls.name}: choose one of {allowed}"
            raise ArgumentError("variant", message)
        return super().choose_config(variant, manual_dir, reading)

    def sources(self) -> dict[str, SplitSource]:
        """See the base class."""
        boxes, _, number = self.variant.partition("-classic-")
        forms = (MAT,) if number else (NP, MAT, UNPACKED)
        form, tree = self._find_form(boxes, forms)
        if form == NP:
            return market_sources(tree)
        if number:
            release = Release(tree, RELEASE)
            images = MatImages(release, boxes)
            splits = _classic_splits(images, release.test_set(int(number)), int(number))
        else:
            splits = read_protocol(*self.find_lists(tree, boxes))
            images = (
                MatImages(Release(tree, RELEASE), boxes)
                if form == MAT
                else tree.below(f"images_{boxes}")
            )
            _check_present(splits, images)
        return {split: make_source(photos, images) for split, photos in splits.items()}

    def published_counts(self) -> Mapping[str, Count]:
        """See the base class: the counts of the new protocol; the classic ones are unpublished."""
        train, gallery = {"labeled": (7_368, 5_328), "detected": (7_365, 5_332)}.get(
            self.variant, (0, 0)
        )
        if not train:
            return {}
        return {
            "train": Count(train, 767, 2),
            "query": Count(1_400, 700, 2),
            "gallery": Count(gallery, 700, 2),
        }

    def find_lists(self, tree: FileTree, boxes: str) -> tuple[FileTree, str]:
        """Find the lists of the new protocol: a tree and a filename in it.

        Searches the images' tree, nearest first; then `manual_path`, as for data sets; then the
        folder that contains `manual_path`.

        Raises: UserError if the lists are missing, or if several trees hold them.
        """
        name = LISTS.format(boxes)
        below = [path for path in tree.names if posixpath.basename(path) == name]
        if below:
            return tree, min(below, key=lambda path: (path.count("/"), path))
        above = Path(self.manual_path).absolute().parent
        try:
            trees = find_trees(self.manual_path, (name,))
        except UserError:  # an archive that cannot be read may have nothing to do with CUHK03
            trees = []
        if not trees and is_file(above / name):
            trees = [open_tree(above)]
        if not trees:
            raise UserError(
                f"'{name}' is missing, which lists the splits of the images in '{tree.location}': "
                "put it beside them (it is in github.com/zhunzhong07/person-re-ranking)"
            )
        return choose_tree(trees, self.FOLDER_WORD), name

    def _find_form(self, boxes: str, forms: tuple[str, ...]) -> tuple[str, FileTree]:
        """Find the first of `forms` on disk, and the tree with this form at its top."""
        manual = Path(self.manual_path)
        itself = boxes[:5] in manual.name.lower()  # labeled, cuhk-label, cuhk03-np-detected, ...
        if NP in forms and itself and any(is_folder(manual / folder) for folder in MARKERS):
            return NP, open_tree(manual)
        markers = (
            *(f"{name}/{folder}" for name in BOXES for folder in MARKERS),
            *(posixpath.join(folder, RELEASE) for folder in RELEASE_FOLDERS),
            *(f"images_{name}" for name in BOXES),
        )
        found = [_forms(tree, boxes) for tree in find_trees(manual, markers)]
        for form in forms:
            # In an archive, two markers may find the same release.
            trees = {parts[form].location: parts[form] for parts in found if form in parts}
            if trees:
                return form, choose_tree(list(trees.values()), self.FOLDER_WORD)
        return "", self.find(manual, markers, self._other_form)  # raises: each tree has a problem

    def _other_form(self, tree: FileTree) -> str:
        """Describe the form in a tree that the variant cannot use."""
        held = [f"{form}, {boxes}," for boxes in BOXES for form in _forms(tree, boxes)]
        wanted, _, number = self.variant.partition("-classic-")
        if number:
            wanted = f"{RELEASE}, where the classic splits are"
        return f"'{tree.location}' has {held[0] if held else 'no images'} and not {wanted}"


def _forms(tree: FileTree, boxes: str) -> dict[str, FileTree]:
    """Return the forms in which a tree holds images with these boxes, and their subtrees."""
    forms = {}
    if any(tree.below(f"{boxes}/{folder}").images() for folder in MARKERS):
        forms[NP] = tree.below(boxes)
    for folder in RELEASE_FOLDERS:
        place = tree.below(folder) if folder else tree
        if RELEASE in place.names:
            forms[MAT] = place
    if tree.below(f"images_{boxes}").images():
        forms[UNPACKED] = tree
    return forms


def _check_present(splits: Mapping[str, list[Photo]], images: FileTree) -> None:
    present = set(images.names)
    for photos in splits.values():
        for photo in photos:
            if photo.filename not in present:
                raise UserError(
                    f"'{images.location}/{photo.filename}' is missing or empty, but the lists of "
                    "the new protocol name it: restore it"
                )


def _classic_splits(
    images: MatImages, tested: set[tuple[int, int]], number: int
) -> dict[str, list[Photo]]:
    """Return the splits with these (pair, person) for the test; pids count over all pairs."""
    for pair, person in tested:
        if not 0 <= pair < len(images.people) or not 0 <= person < images.people[pair]:
            raise UserError(
                f"'{images.location}': test set {number} names person {person + 1} of camera pair "
                f"{pair + 1}, who does not exist: restore the file"
            )
    splits: dict[str, list[Photo]] = {"train": [], "query": []}
    for name in images.names:
        match = NAME.fullmatch(name)
        assert match is not None  # `MatImages` makes the names
        pair, person = int(match[1]) - 1, int(match[2]) - 1
        pid = sum(images.people[:pair]) + person + 1
        split = "query" if (pair, person) in tested else "train"
        splits[split].append(Photo(name, pid, int(match[3])))
    if not all(splits.values()):
        raise UserError(
            f"'{images.location}': test set {number} leaves no images to train on, or to test: "
            "restore the file"
        )
    return {**splits, "gallery": splits["query"]}
