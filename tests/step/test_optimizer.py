import math

import jax
import numpy as np
import optax
import pytest
from support import training_oracle

from batnet_jax.config import default_config
from batnet_jax.step.optimizer import (
    adam_l2,
    clip,
    cosine_schedule,
    learning_rate_schedule,
    warm_up,
)
from batnet_jax.step.packing import pack, unpack
from batnet_jax.step.train_step import make_schedule

BETAS = {"beta1": 0.9, "beta2": 0.999}


def run_adam(values, gradients, schedule, weight_decay):
    transform = adam_l2(schedule, weight_decay=weight_decay, **BETAS)
    params = {"kernel": values[0], "bn": {"scale": values[1]}}
    state = transform.init(params)
    for kernel, scale in gradients:
        updates, state = transform.update({"kernel": kernel, "bn": {"scale": scale}}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["kernel"]), np.asarray(params["bn"]["scale"])


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 0.5])
def test_adam_equals_the_oracle(weight_decay):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(3, 4)), rng.uniform(1, 2, 5)]
    gradients = [[rng.normal(size=v.shape) for v in values] for _ in range(5)]
    gradients[2][0][:] = 0  # then only L2 or the momentum changes the values
    with jax.enable_x64(True):
        schedule = learning_rate_schedule(
            1e-2, decay_epochs=(3,), decay_factor=0.1, steps_per_epoch=1
        )
        got = run_adam(values, gradients, schedule, weight_decay)
    rates = [1e-2, 1e-2, 1e-2, 1e-3, 1e-3]
    decoupled = []
    for i in (0, 1):  # every parameter decays, including a BN's scale
        own = [step[i] for step in gradients]
        options = {"weight_decay": weight_decay, **BETAS}
        expected = training_oracle.adam(values[i], own, rates, **options)
        # A float32 learning rate changes an update, 1e-2 of the values, by 6e-8; the rest rounds.
        np.testing.assert_allclose(got[i], expected, rtol=0, atol=1e-8)
        adamw = training_oracle.adam(values[i], own, rates, decoupled=True, **options)
        decoupled.append(np.abs(adamw - got[i]).max())
    if weight_decay == 0.5:
        assert min(decoupled) > 1e-3  # it is not AdamW


@pytest.mark.parametrize("steps_per_epoch", [1, 187])
def test_schedule_at_the_borders_of_the_epochs(steps_per_epoch):
    config = default_config()
    schedule = learning_rate_schedule(
        config.learning_rate,
        decay_epochs=config.decay_epochs,
        decay_factor=config.decay_factor,
        steps_per_epoch=steps_per_epoch,
    )
    # Epochs 0 to 149 have the full learning rate, as with PyTorch's MultiStepLR.
    for epoch, rate in [
        (0, 5e-4), (149, 5e-4), (150, 5e-5), (199, 5e-5), (200, 5e-6), (249, 5e-6), (250, 5e-7),
        (299, 5e-7),
    ]:  # fmt: skip
        for step in (epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1):
            # A product of three factors in float32.
            np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)
            np.testing.assert_allclose(schedule(np.int32(step)), rate, rtol=1e-6)


def test_schedule_without_decay():
    schedule = learning_rate_schedule(1e-3, decay_epochs=(), decay_factor=0.1, steps_per_epoch=9)
    assert float(schedule(10**6)) == pytest.approx(1e-3)


def cosine_by_hand(step, rate, warmup, factor, steps):
    if step < warmup:
        return rate * (factor + (1 - factor) * step / warmup)
    done = min(1, (step - warmup) / (steps - warmup))
    return rate * (1 + math.cos(math.pi * done)) / 2


# Float32, whose cosine is good to 1e-7 of the rate.
near = {"rtol": 1e-6, "atol": 1e-9}


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_and_warm_up_by_hand(warmup):
    schedule = warm_up(
        cosine_schedule(3.5e-4, warmup_steps=warmup, steps=120), steps=warmup, factor=0.1
    )
    theirs = optax.warmup_cosine_decay_schedule(3.5e-5, 3.5e-4, warmup, 120)
    for step in range(130):
        np.testing.assert_allclose(
            schedule(np.int32(step)), cosine_by_hand(step, 3.5e-4, warmup, 0.1, 120), **near
        )
        if warmup:
            np.testing.assert_allclose(schedule(step), theirs(step), **near)
    if warmup:
        assert float(schedule(0)) == pytest.approx(3.5e-5)
    assert float(schedule(warmup)) == pytest.approx(3.5e-4)
    assert float(schedule((120 + warmup) // 2)) == pytest.approx(1.75e-4)
    assert float(schedule(120)) == float(schedule(10**6)) == 0


def test_without_a_warm_up_the_schedule_is_unchanged():
    schedule = optax.constant_schedule(1.0)
    assert warm_up(schedule, steps=0, factor=0.1) is schedule


@pytest.mark.parametrize("steps_per_epoch", [1, 187])
def test_the_config_names_the_schedule(steps_per_epoch):
    config = default_config()
    config.num_epochs, config.warmup_epochs, config.warmup_factor = 120, 10, 0.2
    config.decay_epochs = (40, 70)
    config.schedule = "cosine"
    cosine = make_schedule(config, steps_per_epoch)
    config.schedule = "piecewise"  # with a warm-up: the learning rates of Luo et al.
    piecewise = make_schedule(config, steps_per_epoch)
    steps = 120 * steps_per_epoch
    for step in (0, 1, 5, 9, 10, 39, 40, 69, 70, 119):
        at = step * steps_per_epoch
        warmup = 10 * steps_per_epoch
        np.testing.assert_allclose(cosine(at), cosine_by_hand(at, 5e-4, warmup, 0.2, steps), **near)
        line = min(1, 0.2 + 0.8 * step / 10)
        rate = 5e-4 * line * 0.1 ** ((step >= 40) + (step >= 70))
        np.testing.assert_allclose(piecewise(at), rate, **near)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", [0.0, 1e-3, 4.9, 5.1, 1e9])
def test_clip_keeps_the_direction_and_bounds_the_length(norm):
    gradients = {"kernel": np.array([[3.0, 0.0]]), "bn": {"scale": np.array([0.0, -4.0])}}  # 5 long
    got = clip(gradients, norm)
    share = min(1.0, norm / 5) if norm else 1.0
    np.testing.assert_allclose(got["kernel"], share * gradients["kernel"], rtol=1e-12)
    np.testing.assert_allclose(got["bn"]["scale"], share * gradients["bn"]["scale"], rtol=1e-12)


def test_clip_knows_nothing_of_packing():
    rng = np.random.default_rng(0)
    gradients = {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=7)}
    gradients = {name: value.astype(np.float32) for name, value in gradients.items()}
    together = np.sqrt(sum(np.square(value).sum() for value in gradients.values()))
    for kernels in (False, True):
        got = unpack(clip(pack(gradients, kernels=kernels), 0.5))
        for name, value in gradients.items():
            np.testing.assert_allclose(got[name], value * (0.5 / together), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clip_hides_nothing_that_is_not_finite(bad):
    """A state with NaN is not saved, and the run ends with a report."""
    gradients = {"a": np.array([1.0, bad], np.float32), "b": np.ones(2, np.float32)}
    assert not np.isfinite(clip(gradients, 1.0)["a"][1])


def test_clip_of_no_gradient_at_all():
    np.testing.assert_array_equal(clip({"a": np.zeros(3, np.float32)}, 1.0)["a"], 0)
