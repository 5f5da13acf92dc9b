import ast
import inspect
import io
import re
import runpy
import tokenize

import pytest
from support.paths import ROOT

from batnet_jax.config import default_config
from batnet_jax.errors import UserError
from batnet_jax.validation import validate
from batnet_jax.workdir.run_folder import flatten

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
PROMISED = {
    "demo",
    "market1501",
    "cuhk03_labeled",
    "cuhk03_detected",
    "dukemtmc",
    "msmt17",
    "folder",
    "market1501_resnet50",
}
# Section 4.4 and Tables 1-4: dataset, variant, learning rate, r, and the row "BAT-net w/ AiA".
PAPER = {
    "market1501": ("market1501", "", 5e-4, 4, "mAP 87.4, rank-1 95.1, rank-5 98.2, rank-10 98.9"),
    "dukemtmc": ("dukemtmc_reid", "", 5e-4, 4, "mAP 77.3, rank-1 87.7, rank-5 94.7, rank-10 96.3"),
    "msmt17": ("msmt17", "v1", 5e-4, 4, "mAP 56.8, rank-1 79.5, rank-5 89.1, rank-10 91.1"),
    "cuhk03_labeled": ("cuhk03", "labeled", 1e-3, 8, "mAP 76.1, rank-1 78.6"),
    "cuhk03_detected": ("cuhk03", "detected", 1e-3, 8, "mAP 73.2, rank-1 76.2"),
}
SOURCE = re.compile(r"\((paper|published code|ours)\b[^()]*\)$")


def load(name):
    module = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))
    return module["get_config"](), module["__doc__"]


def documented_fields():
    """The dotted name of each field that default_config sets, with the comments beside it."""
    source = inspect.getsource(default_config)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
    sections, fields = {}, {}
    for node in ast.parse(source).body[0].body:
        if not isinstance(node, ast.Assign):
            continue
        *owners, last = node.targets
        if isinstance(last, ast.Name):  # c = ..., or c.data = data = ...
            sections[last.id] = f"{owners[0].attr}." if owners else ""
        else:
            beside = [comments.get(line, "") for line in range(node.lineno, node.end_lineno + 1)]
            name = last.attr if isinstance(last, ast.Attribute) else last.slice.value
            fields[sections[last.value.id] + name] = "".join(beside)
    return fields


def attributes_read(path):
    """(b, c) for each a.b.c, or b.c, that the file reads."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            yield getattr(owner, "attr", getattr(owner, "id", "")), node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield getattr(node.value, "attr", ""), node.slice.value  # a.b["from"]


def test_promised_configs_exist():
    assert set(NAMES) >= PROMISED


@pytest.mark.parametrize("name", NAMES)
def test_config_is_valid_and_adds_no_field(name):
    config, docstring = load(name)
    validate(config)
    assert flatten(config.to_dict()).keys() == flatten(default_config().to_dict()).keys()
    assert f"python -m batnet_jax.main --config=configs/{name}.py" in docstring


@pytest.mark.parametrize("name", PAPER)
def test_paper_values(name):
    config, docstring = load(name)
    dataset, variant, learning_rate, reduction, row = PAPER[name]
    assert (config.data.dataset, config.data.variant) == (dataset, variant)
    assert (config.learning_rate, config.model.reduction) == (learning_rate, reduction)
    assert row in docstring
    assert "not run by us" in docstring
    # What else section 4.4 gives, the same for all four data sets.
    assert (config.num_epochs, config.steps) == (300, 0)
    assert (config.decay_epochs, config.decay_factor) == ((150, 200, 250), 0.1)
    assert (config.beta1, config.beta2, config.weight_decay) == (0.9, 0.999, 1e-4)
    assert config.data.image_size == (256, 128)
    assert (config.model.attention, config.model.position) == ("aia", "p2")
    assert (config.model.num_parts, config.model.embedding_dim) == (4, 512)
    assert (config.model.width, config.loss.num_negatives) == (1.0, 5)
    assert config.augment.erasing_start_epoch == 50


def test_the_strong_baseline():
    """Luo et al., CVPR Workshops 2019, as the issue lists it."""
    config, docstring = load("market1501_resnet50")
    batch, model, loss = config.batch, config.model, config.loss
    assert (batch.identities, batch.images_per_identity) == (16, 4)
    assert config.data.image_size == (256, 128)
    assert (config.num_epochs, config.learning_rate, config.weight_decay) == (120, 3.5e-4, 5e-4)
    assert (config.schedule, config.warmup_epochs, config.warmup_factor) == ("cosine", 10, 0.1)
    assert (model.backbone, model.neck, model.embedding_dim) == ("resnet50", "bnneck", 0)
    assert (model.num_parts, model.dropout) == (0, 0)
    assert (loss.label_smoothing, loss.margin, loss.num_negatives) == (0.1, 0.3, 1)
    assert (config.augment.erasing_probability, config.augment.erasing_start_epoch) == (0.5, 0)
    assert "has not been run" in docstring


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.neck": "x"}, "config.model.neck='x' is not one of none, bnneck: choose one"),
        ({"model.backbone": "resnet18"}, "'resnet18' is not one of published, .*, resnet50: cho"),
        ({"model.embedding_dim": 0}, "embedding_dim=0 needs --config.model.neck=bnneck"),
        ({"model.embedding_dim": -1, "model.neck": "bnneck"}, "embedding_dim=-1 must be 0 or more"),
        ({"schedule": "linear"}, "config.schedule='linear' is not one of piecewise, cosine: cho"),
        ({"warmup_epochs": 300}, "config.warmup_epochs=300 leaves nothing of config.num_epochs=3"),
        ({"warmup_epochs": -1}, "config.warmup_epochs=-1 must be 0 or more"),
        ({"warmup_factor": 1.5}, "config.warmup_factor=1.5 must lie between 0 and 1"),
    ],
    ids=str,
)
def test_what_is_refused(fields, message):
    config = default_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(UserError, match=message) as caught:
        validate(config)
    assert "\n" not in str(caught.value)


def test_every_field_says_what_it_is_and_whose_value_it_has():
    fields = documented_fields()
    assert fields.keys() == flatten(default_config().to_dict()).keys()
    assert [name for name, comment in fields.items() if not SOURCE.search(comment)] == []


def test_every_field_is_read():
    package = ROOT / "batnet_jax"
    read = set()
    for path in package.rglob("*.py"):
        if path.name not in ("config.py", "validation.py"):
            read |= set(attributes_read(path))
    # `steps.make_model` hands the whole section to BATNet, whose own attributes they are there.
    network = set(attributes_read(package / "models" / "batnet.py"))
    dead = []
    for field in flatten(default_config().to_dict()):
        section, name = f"config.{field}".split(".")[-2:]
        found = ("self", name) in network if section == "model" else (section, name) in read
        if not found:
            dead.append(field)
    assert dead == []
