"""The table of the settings, and the configs that start from it."""

import ast
import inspect
import re

import jax
import jax.numpy as jnp
import pytest
from support.configs import run_config
from support.paths import ROOT

from batnet_jax import models
from batnet_jax.config import FIELDS, RESUMABLE_FIELDS, default_config, flatten
from batnet_jax.data.files.pixels import ALPHA
from batnet_jax.errors import UserError
from batnet_jax.models.heads import CLASSIFIERS
from batnet_jax.models.init_variables import MAX_PARAMETERS
from batnet_jax.retrieval import POOLINGS
from batnet_jax.step.losses import LOSSES
from batnet_jax.step.optimizer import SCHEDULES
from batnet_jax.step.train_step import make_recipe
from batnet_jax.validation import validate

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
    "market1501_osnet",
    "market1501_sbs",
    "market1501_vit",
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
    module = run_config(name)
    return module["get_config"](), module["__doc__"]


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


def strong_baseline(**model):
    """The recipe of configs/market1501_resnet50.py, and its parameters and outputs as shapes."""
    config, _ = load("market1501_resnet50")
    config.model.update(model)
    recipe = make_recipe(config, num_identities=751, steps_per_epoch=187, axis_name=None)
    images = jax.ShapeDtypeStruct((2, *config.data.image_size, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    outputs, variables = jax.eval_shape(
        lambda x: recipe.model.init_with_output(keys, x, train=True), images
    )
    return recipe, outputs, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_strong_baseline_has_the_rates_and_the_feature_of_luo():
    recipe, outputs, _ = strong_baseline()
    rates = [float(recipe.schedule(187 * epoch)) for epoch in (0, 10, 120)]
    assert rates == pytest.approx([3.5e-5, 3.5e-4, 0])
    assert recipe.erasing_start == 0
    assert {name: x.shape for name, x in outputs["features"].items()} == {"appearance": (2, 2048)}


# The mAP and the rank-1 of others, and the settings that make the recipe.
OTHERS = {
    "market1501_osnet": ("mAP 84.9, rank-1 94.8", "osnet_x1_0", "fc", "soft_triplet", (256, 128)),
    "market1501_sbs": (
        "mAP 89.3,\nrank-1 95.7",
        "resnet50_ibn",
        "bnneck_gem",
        "circle",
        (384, 128),
    ),
    "market1501_vit": ("mAP 87.1,\nrank-1 94.6", "vit_b16", "bnneck", "soft_triplet", (256, 128)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_recipes_of_others_say_whose_figures_they_name(name):
    config, docstring = load(name)
    figures, backbone, neck, loss, size = OTHERS[name]
    assert figures in docstring
    assert "not run by us" in docstring
    found = config.model.backbone, config.model.neck, config.loss.function
    assert found == (backbone, neck, loss)
    assert tuple(config.data.image_size) == size
    model = make_recipe(config, num_identities=5, steps_per_epoch=1).model
    assert (model.num_parts, model.attention, model.dropout) == (0, "none", 0)


def test_a_margin_that_cosines_cannot_have_is_refused():
    config = default_config()
    config.loss.function = "circle"
    with pytest.raises(UserError, match=r"config\.loss\.margin=1\.0 is not a margin of cosines"):
        validate(config)
    config.loss.margin = 0.99
    validate(config)


def test_the_strong_baseline_at_p4_needs_a_larger_reduction():
    """As its comment says."""
    _, _, small = strong_baseline(position="p4", reduction=16)
    _, _, large = strong_baseline(position="p4")
    assert small < MAX_PARAMETERS < large
    assert round(large / 1e6) == 564


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model.neck": "x"},
            "neck='x' is not one of none, bnneck, bnneck_gem, fc: choose one, or name your own",
        ),
        ({"model.backbone": "resnet18"}, "'resnet18' is not one of published, .*, resnet50.*: cho"),
        (
            {"model.position": "p5"},
            "config.model.position='p5' has the unknown position 'p5': give",
        ),
        ({"model.embedding_dim": 0}, "embedding_dim=0 needs --config.model.neck=bnneck"),
        ({"model.embedding_dim": -1, "model.neck": "bnneck"}, "embedding_dim=-1 must be 0 or more"),
        ({"schedule": "linear"}, "config.schedule='linear' is not one of piecewise, cosine: cho"),
        ({"warmup_epochs": 300}, "config.warmup_epochs=300 is not less than config.num_epochs=3"),
        ({"warmup_epochs": -1}, "config.warmup_epochs=-1 must be 0 or more"),
        (
            {"learning_rate": 0.0},
            "config.learning_rate=0.0 must be above 0 [(]learning rate at the start",
        ),
        ({"beta1": 1.0}, "config.beta1=1.0 must be below 1"),
        ({"weight_decay": float("nan")}, "config.weight_decay=nan is not a finite number"),
        (
            {"eval.step": -2},
            "config.eval.step=-2 must be -1 or more .*0 = latest, -1 = best on val",
        ),
        (
            {"batch.images_per_identity": 1},
            "identity=1 must be 2 or more .*1 would leave a triplet without",
        ),
        ({"data.own_val": True, "data.val_identities": 0.1}, "both hold images out: choose one"),
        ({"data.variant": "v2", "data.train": ("msmt17",)}, "empty it, .* as in msmt17:v2"),
        ({"loss.num_negatives": 61}, "has 60 negatives an anchor, fewer than .*num_negatives=61"),
        ({"batch.accumulate": 3}, "=3 does not divide a batch of 16 x 4 = 64 images: choose a"),
        ({"warmup_factor": 1.5}, "config.warmup_factor=1.5 must be 1 or less"),
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
    assert [name for name, field in FIELDS.items() if not SOURCE.search(field.comment)] == []
    assert [name for name, field in FIELDS.items() if field.comment.startswith("(")] == []


def test_every_number_has_limits():
    """A number without them could be infinite, or not a number."""
    numbers = {
        name: field
        for name, field in FIELDS.items()
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert [name for name, f in numbers.items() if (f.least is None) == (f.above is None)] == []


def test_the_choices_are_those_of_the_code():
    """`config` may import no other package, so its table repeats their names."""
    choices = {name: field.choices for name, field in FIELDS.items() if field.choices}
    assert choices == {
        "fit": ("none", "batch", "all"),
        "schedule": SCHEDULES,
        "data.alpha": ALPHA,
        "model.attention": models.ATTENTIONS,
        "model.kernel": tuple(models.KERNELS),
        "model.backbone": tuple(models.BACKBONES),
        "model.part_sampling": models.PART_SAMPLINGS,
        "model.neck": models.NECKS,
        "model.classifier": tuple(CLASSIFIERS),
        "loss.function": tuple(LOSSES),
        "model.dtype": ("float32", "bfloat16"),
        "eval.ap": ("precision", "trapezoid"),
        "eval.same_camera": ("remove", "keep"),
        "eval.multi_query": ("none", *POOLINGS),
    }


def test_the_limits_and_defaults_of_the_network_are_those_of_the_code():
    for name, most in models.MAX_ATTRIBUTES.items():
        assert FIELDS[f"model.{name}"].most == most
    parameters = inspect.signature(models.BATNet).parameters
    for name, value in default_config().model.items():
        default = parameters[name].default
        assert value == (default.__name__ if name == "dtype" else default), name


def test_a_run_is_resumed_with_other_values_of_these():
    assert set(RESUMABLE_FIELDS) == {
        *("num_epochs", "steps", "fit", "data.dir", "data.manual_dir", "data.layout"),
        *("data.pattern", "data.cache_gb", "data.disk_cache_gb", "data.workers"),
        *("eval", "checkpoint", "log", "profile"),
    }


def test_every_field_is_read():
    package = ROOT / "batnet_jax"
    read = set()
    for path in package.rglob("*.py"):
        if path.name not in ("config.py", "validation.py"):
            read |= set(attributes_read(path))
    # `models.build` passes the whole section to BATNet, as attributes.
    network = set(attributes_read(package / "models" / "batnet.py"))
    dead = []
    for field in flatten(default_config().to_dict()):
        section, name = f"config.{field}".split(".")[-2:]
        found = ("self", name) in network if section == "model" else (section, name) in read
        if not found:
            dead.append(field)
    assert dead == []
