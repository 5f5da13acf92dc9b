"""Settings that follow from the size of the training set, unless they were given."""

import json

import jax
import numpy as np
import pytest
from support.configs import load_config
from support.run_main import call_main
from support.stub_training import fake_embed, fake_state, fake_step
from support.tiny_datasets import jpg, write_tree

from batnet_jax.config import default_config, flatten
from batnet_jax.data.loading.sampler import steps_per_epoch
from batnet_jax.errors import UserError
from batnet_jax.training import loop, start
from batnet_jax.training.fitted import (
    CONSTANT_STEPS,
    describe_fit,
    fit,
    fit_negatives,
    keep_fit,
)
from batnet_jax.training.run_length import check_batch, plan_run
from batnet_jax.validation import validate


def labels(people, images=4):
    return np.repeat(np.arange(people), images)


def config_of(**fields):
    config = default_config()
    config.update_from_flattened_dict(fields)
    return config


def changes(config, *arguments):
    """Return the fields that `fit` changes."""
    before, after = flatten(config), flatten(fit(config, *arguments))
    return {name: after[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("people", [2, 3, 4, 7, 15])
def test_a_small_set_gets_a_smaller_batch_that_is_valid(people):
    fitted = fit(config_of(), labels(people), ())
    assert fitted.batch.identities == people
    assert fitted.loss.num_negatives == min(5, 4 * (people - 1))
    validate(fitted)
    check_batch(fitted)
    assert plan_run(fitted, labels(people)).steps_per_epoch == 1


@pytest.mark.parametrize("people", [16, 17, 751])
def test_the_papers_batch_stays(people):
    assert changes(config_of(), labels(people), ()) == {}
    assert describe_fit(config_of(), fit(config_of(), labels(people), ()), labels(people)) == ""


def test_given_fields_stay():
    """A batch that was given and does not fit is refused, with its field."""
    given = {"batch.identities", "loss.num_negatives"}
    assert changes(config_of(), labels(3), given) == {}
    with pytest.raises(UserError, match=r"only 3 identities: .* \(config.batch.identities\)"):
        plan_run(fit(config_of(), labels(3), given), labels(3))
    assert changes(config_of(fit="none"), labels(3), ()) == {}
    assert changes(config_of(), labels(3), {"loss.num_negatives"}) == {"batch.identities": 3}


@pytest.mark.parametrize(
    ("devices", "accumulate", "people", "batch"),
    [
        (4, 1, 3, (3, 4)),
        (8, 1, 3, (2, 4)),
        (8, 1, 7, (6, 4)),
        (16, 1, 3, (3, 16)),
        (2, 4, 3, (2, 4)),
    ],
)
def test_the_batch_divides_among_devices(monkeypatch, devices, accumulate, people, batch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    config = config_of(**{"batch.accumulate": accumulate})
    fitted = fit(config, labels(people), ())
    assert (fitted.batch.identities, fitted.batch.images_per_identity) == batch
    check_batch(fitted)


@pytest.mark.parametrize("people", [0, 1])
def test_one_person_cannot_be_compared(people):
    with pytest.raises(UserError, match=rf"the training set has {people} identity, .*: add some"):
        fit(config_of(), labels(people), ())


def test_negatives_follow_from_a_given_batch():
    config = config_of(**{"batch.identities": 2})
    validate(fit_negatives(config, {"batch.identities"}))
    assert fit_negatives(config, ()).loss.num_negatives == 4
    assert fit_negatives(config, {"loss.num_negatives"}).loss.num_negatives == 5
    with pytest.raises(UserError, match=r"0 negatives an anchor, .* raise config.batch.identities"):
        validate(fit_negatives(config_of(**{"batch.identities": 1}), ()))


ALL = {"fit": "all", "schedule": "piecewise", "batch.identities": 8}


@pytest.mark.parametrize(("people", "images"), [(2, 2), (9, 4), (9, 40), (200, 10), (3000, 12)])
def test_the_length_follows_from_the_size(people, images):
    """At least 1000 steps and 20 epochs, whichever is longer; one epoch more at most."""
    fitted = fit(config_of(**ALL), labels(people, images), ())
    validate(fitted)
    length = plan_run(fitted, labels(people, images))
    shape = {"identities": fitted.batch.identities}
    shape["images_per_identity"] = fitted.batch.images_per_identity
    epoch = steps_per_epoch(labels(people, images), **shape)
    assert length.total >= 1000
    assert fitted.num_epochs >= 20
    assert fitted.num_epochs == 20 or length.total < 1000 + epoch
    assert 0 < fitted.warmup_epochs < fitted.num_epochs
    assert all(0 < epoch < fitted.num_epochs for epoch in fitted.decay_epochs)
    assert 1 <= fitted.num_epochs / fitted.checkpoint.every_epochs <= 4


def test_people_with_few_images_get_fewer_in_a_batch():
    assert changes(config_of(**ALL), labels(9, 2), ())["batch.images_per_identity"] == 2
    assert "batch.images_per_identity" not in changes(config_of(**ALL), labels(9, 9), ())
    assert "batch.images_per_identity" not in changes(config_of(), labels(99, 2), ())


def test_a_cosine_gets_no_decays():
    """They would change nothing, and the line would name them."""
    found = changes(config_of(**ALL | {"schedule": "cosine"}), labels(9), ())
    assert found.keys() == changes(config_of(**ALL), labels(9), ()).keys() - {"decay_epochs"}
    assert "warmup_epochs" in found


def test_short_runs_from_scratch_have_no_decay():
    """docs/training.md: a decay at the end of some thousand steps fits the people of training."""
    config = config_of(**ALL)
    short = fit(config, labels(9, 40), ())
    assert short.decay_epochs == ()
    assert plan_run(short, labels(9, 40)).total <= CONSTANT_STEPS
    validate(short)
    long = fit(config, labels(3000, 12), ())
    assert plan_run(long, labels(3000, 12)).total > CONSTANT_STEPS
    assert long.decay_epochs == (12, 17)  # of 20 epochs
    assert fit(config_of(**ALL, steps=1500), labels(3000, 12), {"steps"}).decay_epochs == ()


def test_a_start_from_weights_keeps_the_papers_rate_and_decays():
    config = config_of(**ALL | {"init.from": "x.pth", "learning_rate": 3e-3})
    fitted = fit(config, labels(9, 40), ())
    assert fitted.learning_rate == 5e-4
    assert len(fitted.decay_epochs) == 2
    assert fit(config, labels(9, 40), {"learning_rate"}).learning_rate == 3e-3
    config.learning_rate = 1e-4
    assert fit(config, labels(9, 40), ()).learning_rate == 1e-4


def test_folder_follows_what_was_measured():
    """docs/training.md recommends the demo's rate and warm-up, and no decay."""
    demo, folder = load_config("demo"), load_config("folder")
    fitted = fit(folder, labels(100, 5), ())
    assert fitted.learning_rate == demo.learning_rate
    assert (fitted.schedule, fitted.decay_epochs) == ("piecewise", ())
    assert fitted.warmup_epochs > 0


def test_the_rest_follows_from_given_epochs():
    fitted = fit(config_of(**ALL, num_epochs=40), labels(9), {"num_epochs"})
    assert (fitted.num_epochs, fitted.warmup_epochs, fitted.decay_epochs) == (40, 4, ())
    fitted = fit(config_of(**ALL, num_epochs=1), labels(9), {"num_epochs"})
    assert (fitted.num_epochs, fitted.warmup_epochs) == (1, 0)
    validate(fitted)


def test_the_line_names_what_changed():
    config = config_of(**ALL)
    line = describe_fit(config, fit(config, labels(5), ()), labels(5))
    assert line.startswith("chosen by the size of the training set (5 people, 20 images): ")
    for field in ("num_epochs=1000", "decay_epochs=()", "batch.identities=5"):
        assert field in line


def test_a_run_keeps_what_its_start_chose():
    start = fit(config_of(**ALL), labels(5), ())
    kept = keep_fit(config_of(**ALL), start, 5, ())
    assert flatten(kept) == flatten(start)
    assert keep_fit(config_of(**ALL), start, 5, {"num_epochs"}).num_epochs == 300
    small = fit(config_of(), labels(5), ())
    assert flatten(keep_fit(config_of(), small, 5, ())) == flatten(small)
    # A batch that is smaller for another reason was another setting.
    assert keep_fit(config_of(), small, 50, ()).batch.identities == 16


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that trains a stub on a folder of people, and returns status and text."""
    monkeypatch.setattr(start, "init_state", fake_state)
    monkeypatch.setattr(loop, "train_step", fake_step)
    monkeypatch.setattr(loop, "make_embed", fake_embed)

    def run(people, *words, config="folder"):
        manual = tmp_path / f"m{people}"
        files = {f"p{p}/{i}.jpg": jpg(9 * p + i) for p in range(people) for i in range(4)}
        write_tree(manual, files)
        status, text = call_main(
            f"--config=configs/{config}.py",
            "--config.data.dataset=folder",
            f"--config.data.manual_dir={manual}",
            f"--config.data.dir={tmp_path / 'd'}",
            f"--workdir={tmp_path / 'w'}",
            *words,
        )
        return status, capsys.readouterr().out + text

    return run


def saved(tmp_path):
    return flatten(json.loads((tmp_path / "w" / "config.json").read_text()))


@pytest.mark.parametrize("config", ["folder", "market1501"])
def test_three_people_simply_train(command, tmp_path, config):
    """Two of the three are trained on. The same command resumes; none sends the user round."""
    status, text = command(3, "--config.steps=2", config=config)
    assert status == 0, text
    assert "chosen by the size of the training set (2 people, 8 images): " in text
    assert "batch.identities=2" in text
    assert "loss.num_negatives=4" in text
    first = saved(tmp_path)
    assert (first["batch.identities"], first["loss.num_negatives"]) == (2, 4)
    status, text = command(3, "--config.steps=4", config=config)
    assert status == 0, text
    assert "after step 2" in text
    assert {**saved(tmp_path), "steps": 2} == first


def test_a_given_batch_is_kept_or_refused(command):
    status, text = command(3, "--config.steps=1", "--config.batch.identities=3")
    assert (status, "only 2 identities: choose 2 or fewer (config.batch.identities)" in text) == (
        2,
        1,
    )
    status, text = command(3, "--config.steps=1", "--config.batch.identities=2")
    assert status == 0, text
    assert "loss.num_negatives=4: a batch of 2 x 4 has no more" in text


def test_two_people_leave_one_to_train_on(command):
    status, text = command(2, "--config.steps=1")
    assert status == 2
    assert "the training set has 1 identity, of 4 images, and training compares people" in text


def test_people_added_to_a_small_run_are_told_of_as_such(command):
    """The batch of the start is kept, so that the message speaks of people, not of the batch."""
    assert command(3, "--config.steps=1")[0] == 0
    status, text = command(12, "--config.steps=2")
    assert status == 2
    assert "was trained on 2 identities that are not the 9 of the training data now" in text


def test_any_given_length_works(command, tmp_path):
    status, text = command(5, "--config.num_epochs=1")
    assert status == 0, text
    assert (saved(tmp_path)["num_epochs"], saved(tmp_path)["warmup_epochs"]) == (1, 0)
