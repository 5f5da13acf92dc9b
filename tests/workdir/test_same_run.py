"""What makes a run another run: settings, image size, training data."""

import json

import pytest
from support.run_main import call_main

from batnet_jax.config import default_config, flatten, set_fields
from batnet_jax.data.run_data import TRAIN_BY_LABEL
from batnet_jax.errors import UserError
from batnet_jax.modes import train
from batnet_jax.validation import from_saved
from batnet_jax.workdir.run_folder import older_settings
from batnet_jax.workdir.same_run import (
    check_image_size,
    check_settings,
    check_training_data,
    warn_of_other_tests,
)


def test_a_run_is_resumed_with_other_resumable_fields_only(tmp_path):
    config = default_config()
    saved = json.loads(config.to_json()) | {"steps": 5, "log": {"every_steps": 99}}
    saved["data"] = saved["data"] | {"workers": 9}
    check_settings(config, saved, tmp_path)
    with pytest.raises(UserError, match=r"config.model.width=0.5, not 1.0"):
        check_settings(config, saved | {"model": saved["model"] | {"width": 0.5}}, tmp_path)
    check_settings(config, saved | {"num_epochs": 301}, tmp_path)
    config.schedule = "cosine"  # its rate depends on its end
    later = saved | {"schedule": "cosine", "num_epochs": 301}
    with pytest.raises(UserError, match=r"config.num_epochs=301, not 300"):
        check_settings(config, later, tmp_path)
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_a_field_newer_than_the_run_counts_as_its_default(tmp_path):
    config = default_config()
    saved = json.loads(config.to_json())
    for name in ("schedule", "warmup_epochs", "warmup_factor"):
        del saved[name]
    for name in ("neck", "backbone"):
        del saved["model"][name]
    check_settings(config, saved, tmp_path)
    config.model.neck = "bnneck"
    with pytest.raises(UserError, match=r"config.model.neck='none', not 'bnneck'"):
        check_settings(config, saved, tmp_path)
    config.model.neck = "none"
    config.schedule = "cosine"
    with pytest.raises(UserError, match=r"config.schedule='piecewise', not 'cosine'"):
        check_settings(config, saved, tmp_path)


def test_a_run_older_than_a_new_treatment_of_images_keeps_the_old_one(tmp_path):
    """Transparency was dropped before it was a setting."""
    config = default_config()
    saved = json.loads(config.to_json())
    del saved["data"]["alpha"]
    assert from_saved(saved).data.alpha == "drop"
    assert from_saved(json.loads(config.to_json())).data.alpha == "white"
    with pytest.raises(UserError, match=r"config.data.alpha='drop', not 'white'"):
        check_settings(config, saved, tmp_path)
    assert older_settings(tmp_path) == {}
    (tmp_path / "config.json").write_text("no json")
    assert older_settings(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    set_fields(config, older_settings(tmp_path))
    assert config.data.alpha == "drop"
    check_settings(config, saved, tmp_path)


@pytest.mark.parametrize(
    ("given", "wanted"), [([], "drop"), (["--config.data.alpha=white"], "white")]
)
def test_the_command_line_keeps_the_old_treatment_unless_it_gives_one(
    given, wanted, tmp_path, monkeypatch
):
    saved = json.loads(default_config().to_json())
    del saved["data"]["alpha"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    seen = []
    monkeypatch.setattr(train, "run", lambda config, *_, **__: seen.append(config.data.alpha))
    status, text = call_main("--config=configs/demo.py", f"--workdir={tmp_path}", *given)
    assert (status, seen) == (0, [wanted]), text
    (tmp_path / "config.json").unlink()
    call_main("--config=configs/demo.py", f"--workdir={tmp_path}", *given)
    assert seen == [wanted, "white"]


def test_another_image_size_is_refused(tmp_path):
    config = default_config()
    check_image_size(config, (256, 128), tmp_path)
    with pytest.raises(UserError, match=r"images of \(64, 32\) and the config says \(256, 128\)"):
        check_image_size(config, (64, 32), tmp_path)


def test_other_training_data_is_refused(tmp_path, capsys):
    saved = {"data": {"train": "a", "market1501 test": "b"}, "identities": [["market1501", 3, ""]]}
    check_training_data(saved, saved, tmp_path)
    check_training_data({"identities": saved["identities"]}, saved, tmp_path)  # an old checkpoint
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"other images \(fingerprint a, now c\)"):
        check_training_data(saved, saved | {"data": {"train": "c"}}, tmp_path)
    more = saved | {"identities": [["market1501", 3, ""], ["market1501", 4, ""]]}
    with pytest.raises(UserError, match="on 1 identities that are not the 2 of"):
        check_training_data(saved, more, tmp_path)
    tested = saved | {"data": {"train": "a", "market1501 test": "d"}}
    check_training_data(saved, tested, tmp_path)
    warn_of_other_tests(saved, saved, tmp_path)
    warn_of_other_tests({"identities": saved["identities"]}, saved, tmp_path)
    assert capsys.readouterr().err == ""
    warn_of_other_tests(saved, tested, tmp_path)
    assert "the images of market1501 test have changed" in capsys.readouterr().err


def metadata(*who, **prints):
    return {"identities": [list(one) for one in who], "data": prints}


def test_people_in_the_test_shift_the_numbers_of_all(tmp_path):
    """Named identities are compared by name, images by the labels of the classifier."""
    label = {TRAIN_BY_LABEL: "same"}
    before = metadata(("folder", 0, "bob"), ("folder", 1, "cid"), train="a", **label)
    after = metadata(("folder", 1, "bob"), ("folder", 2, "cid"), train="b", **label)
    check_training_data(before, after, tmp_path)
    warn_of_other_tests(before, after, tmp_path)
    other = metadata(*after["identities"], train="b", **{TRAIN_BY_LABEL: "other"})
    with pytest.raises(UserError, match=r"other images \(fingerprint same, now other\)"):
        check_training_data(before, other, tmp_path)
    older = metadata(*before["identities"], train="a")  # by an earlier version
    with pytest.raises(UserError, match=r"other images \(fingerprint a, now b\)"):
        check_training_data(older, after, tmp_path)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            [("folder", 0, "cid"), ("folder", 1, "bob")],
            r"\(the same in another order, or of another",
        ),
        (
            [("folder-x", 0, "bob"), ("folder-x", 1, "cid")],
            r"\(the same in another order, or of ano",
        ),
        ([("folder", 0, "Bob"), ("folder", 1, "cid")], "'Bob', 'bob' differ only by case"),
        (
            [("folder", 0, "bob"), ("folder", 1, "cid"), ("folder", 2, "dan")],
            "1 new: dan; none gone",
        ),
    ],
)
def test_what_has_changed_about_people_is_said(tmp_path, now, words):
    before = metadata(("folder", 0, "bob"), ("folder", 1, "cid"))
    with pytest.raises(UserError, match=words):
        check_training_data(before, metadata(*now), tmp_path)


def test_unicode_forms_of_a_name_are_told_apart(tmp_path):
    """A copy to another system may write names in the other form, which looks the same."""
    forms = [metadata(("folder", 0, name)) for name in ("Jos\u00e9", "Jose\u0301")]
    with pytest.raises(
        UserError, match=r"'Jose\\u0301', 'Jos\\xe9' differ only by case or Unicode"
    ):
        check_training_data(*forms, tmp_path)
