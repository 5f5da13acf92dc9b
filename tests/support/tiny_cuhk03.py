"""CUHK03 in miniature, in each of its forms as their makers wrote them."""

import cv2
import h5py
import numpy as np
import scipy.io

from support.tiny_datasets import write_tree

BOXES = ("labeled", "detected")
PEOPLE = (3, 2)  # of each pair of cameras
TEST_SETS = [[(1, 2), (2, 1)], [(1, 1), (1, 3), (2, 2)]]
TRAIN_PIDS = (1, 4)


def name_of(pair, person, image):
    """As Zhong et al. name an image; the places begin at 0."""
    return f"{pair + 1:d}_{person + 1:03d}_{1 if image < 5 else 2}_{image + 1:02d}.png"


def draw_world(boxes, people=PEOPLE, absent=0.3):
    """Images [h, w, 3] RGB by name; at least one of each person in each view."""
    rng = np.random.default_rng(BOXES.index(boxes))
    world = {}
    for pair, count in enumerate(people):
        for person in range(count):
            for image in range(10):
                if image % 5 == 0 or rng.random() > absent:
                    size = rng.integers([6, 3], [12, 7])
                    pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
                    world[name_of(pair, person, image)] = pixels
    return world


def pid_of(name, people=PEOPLE):
    pair, person = map(int, name.split("_")[:2])
    return sum(people[: pair - 1]) + person


class MatWriter:
    """Writes HDF5 as MATLAB does for `save -v7.3`: cells are references into `#refs#`."""

    def __init__(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = h5py.File(path, "w", userblock_size=512)
        self.refs = self.file.create_group("#refs#")
        self.written = 0

    def array(self, content, kind="double", **keywords):
        self.written += 1
        dataset = self.refs.create_dataset(f"r{self.written}", data=content, **keywords)
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
        return dataset

    def image(self, pixels):
        if pixels is None:  # of this, MATLAB stores the shape
            empty = self.array(np.zeros(2, np.uint64))
            empty.attrs["MATLAB_empty"] = np.int32(1)
            return empty.ref
        chunks = {"chunks": pixels.T.shape, "compression": "gzip", "compression_opts": 3}
        return self.array(pixels.T, "uint8", **chunks).ref

    def cells(self, references):
        return self.array(np.array(references, h5py.ref_dtype), "cell", dtype=h5py.ref_dtype)

    def variable(self, name, references):
        content = np.array([references], h5py.ref_dtype)
        self.file.create_dataset(name, data=content, dtype=h5py.ref_dtype)
        self.file[name].attrs["MATLAB_class"] = np.bytes_("cell")

    def close(self, path):
        self.file.close()
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 .".ljust(512)
        with path.open("r+b") as file:
            file.write(header)


def write_mat(path, worlds, people=PEOPLE, test_sets=TEST_SETS):
    """Writes `cuhk-03.mat` for the images of each kind of boxes; returns its path."""
    writer = MatWriter(path)
    for boxes, world in worlds.items():
        pairs = []
        for pair, count in enumerate(people):
            names = [[name_of(pair, p, i) for p in range(count)] for i in range(10)]
            table = [[writer.image(world.get(name)) for name in row] for row in names]
            pairs.append(writer.cells(table).ref)
        writer.variable(boxes, pairs)
    writer.variable("testsets", [writer.array(np.array(s, float).T).ref for s in test_sets])
    writer.close(path)
    return path


def lists_of(world):
    """The variables of a new protocol's config: one query for each test person and view."""
    names = sorted(world)
    index = {name: 1 + row for row, name in enumerate(names)}
    test = [name for name in names if pid_of(name) not in TRAIN_PIDS]
    query = [
        min(n for n in test if (pid_of(n), n[6]) == key)
        for key in {(pid_of(n), n[6]) for n in test}
    ]
    return {
        "filelist": np.array(names, object)[:, None],
        "labels": np.array([pid_of(name) for name in names])[:, None],
        "camId": np.array([int(name[6]) for name in names])[:, None],
        "train_idx": np.array([index[n] for n in names if n not in test])[:, None],
        "query_idx": np.array(sorted((index[n] for n in query), reverse=True))[:, None],
        "gallery_idx": np.array([index[n] for n in test if n not in query])[:, None],
    }


def write_lists(folder, boxes, variables):
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {k: v.astype(float) if v.dtype != object else v for k, v in variables.items()}
    path = folder / f"cuhk03_new_protocol_config_{boxes}.mat"
    scipy.io.savemat(path, numbers, do_compression=True)
    return path


def png(pixels):
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def write_np(root, boxes, world, variables):
    """CUHK03-NP, `PID_cVIEW_NUMBER.png`."""
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for split, folder in folders.items():
        for row in variables[f"{split}_idx"].ravel() - 1:
            name = variables["filelist"].ravel()[row]
            new = f"{boxes}/{folder}/{pid_of(name):04}_c{name[6]}_{row}.png"
            write_tree(root, {new: png(world[name])})
    return root


def write_unpacked(root, boxes, world):
    return write_tree(root, {f"images_{boxes}/{name}": png(world[name]) for name in world})


def write_release(root, worlds):
    """The authors' release and the lists, as Torchreid and FastReID want them; returns root."""
    write_mat(root / "cuhk03_release" / "cuhk-03.mat", worlds)
    for boxes, world in worlds.items():
        write_lists(root, boxes, lists_of(world))
    return root
