import gc
import threading
import time

import cv2
import numpy as np
import pytest

from batnet_jax.data.loading import loader
from batnet_jax.data.loading.loader import ImageStore, decode, prefetch
from batnet_jax.errors import RunFailure, UserError

SIZE = (16, 8)


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


class FakeSplit:
    """Images with their index as colour; counts how often each is read."""

    def __init__(self, n, broken=()):
        self.filenames = [f"{i}.png" for i in range(n)]
        self.reads = np.zeros(n, int)
        self.broken = broken

    def __len__(self):
        return len(self.filenames)

    def encoded(self, i):
        assert type(i) is int
        self.reads[i] += 1
        if i in self.broken:
            return b"no image"
        return png(np.full((20, 10, 3), (i, 2 * i, 255 - i), np.uint8))


def expected(indices):
    indices = np.asarray(indices)
    colours = np.stack([indices, 2 * indices, 255 - indices], -1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(indices), *SIZE, 3))


def threads_named(prefix):
    return [t for t in threading.enumerate() if t.name.startswith(prefix)]


def wait_until_gone(prefix):
    for _ in range(200):
        if not threads_named(prefix):
            return True
        time.sleep(0.01)
    return False


def test_decode_gives_rgb_unchanged_at_its_own_size():
    image = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(png(image), (16, 8)), image)


def test_decode_into_the_middle_of_an_array():
    """With and without resizing, at odd widths; the neighbours stay unchanged."""
    rng = np.random.default_rng(0)
    for size in ((37, 53), (16, 8), (150, 301)):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        out = np.full((3, 37, 53, 3), 7, np.uint8)
        assert np.shares_memory(decode(png(image), (37, 53), out=out[1]), out)
        expected = cv2.resize(image, (53, 37), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(out[1], expected)
        np.testing.assert_array_equal(out[::2], 7)


def test_decode_applies_the_orientation():
    """EXIF orientation 6 turns to the right, so the red left half goes to the top."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32, 0] = 255
    jpeg = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"Exif\0\0" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]
    upright = decode(turned, (64, 32))
    assert upright[:28, :, 0].min() > 200  # JPEG is lossy
    assert upright[36:, :, 0].max() < 50


def test_decode_resizes_bilinearly():
    """Two columns, 0 and 80, doubled in width: pixel centres are at quarters."""
    image = np.zeros((1, 2, 3), np.uint8)
    image[:, 1] = 80
    np.testing.assert_array_equal(decode(png(image), (1, 4))[0, :, 0], [0, 20, 60, 80])


def test_decode_repeats_grey_and_lays_transparency_on_a_colour():
    grey = cv2.imencode(".png", np.full((4, 4), 9, np.uint8))[1].tobytes()
    np.testing.assert_array_equal(decode(grey, (4, 4)), np.full((4, 4, 3), 9))
    bgra = np.full((4, 4, 4), (1, 2, 3, 0), np.uint8)
    clear = cv2.imencode(".png", bgra)[1].tobytes()
    np.testing.assert_array_equal(decode(clear, (4, 4))[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(decode(clear, (4, 4), alpha="black")[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(decode(clear, (4, 4), alpha="drop")[0, 0], [3, 2, 1])


@pytest.mark.parametrize("encoded", [b"", b"no image"])
def test_decode_names_a_file_that_is_not_an_image(encoded):
    with pytest.raises(UserError, match=r"'a\.jpg' cannot be decoded"):
        decode(encoded, SIZE, "a.jpg")


@pytest.mark.parametrize(("cache_gb", "reads"), [(1.0, 1), (0.0, 3)])
def test_batches_with_and_without_cache(cache_gb, reads):
    split = FakeSplit(6)
    with ImageStore(split, image_size=SIZE, cache_gb=cache_gb, workers=2) as store:
        assert len(store) == 6
        for indices in ([0, 1, 2], [2, 1, 0], [1, 1, 0, 2]):  # repeats within a batch too
            images = store.batch(np.array(indices))
            assert images.dtype == np.uint8
            np.testing.assert_array_equal(images, expected(indices))
    assert split.reads.tolist() == [reads] * 3 + [0] * 3


@pytest.mark.parametrize(("spare", "reads"), [(0.5, 1), (-1, 2)])
def test_cache_only_if_everything_fits(spare, reads):
    split = FakeSplit(10)
    cache_gb = (10 * 16 * 8 * 3 + spare) / 1e9
    with ImageStore(split, image_size=SIZE, cache_gb=cache_gb) as store:
        for _ in range(2):
            store.batch(np.arange(10))
    assert split.reads.tolist() == [reads] * 10


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_empty_batch(cache_gb):
    with ImageStore(FakeSplit(3), image_size=SIZE, cache_gb=cache_gb) as store:
        assert store.batch(np.array([], np.int64)).shape == (0, *SIZE, 3)


def test_caller_may_write_into_a_batch():
    with ImageStore(FakeSplit(3), image_size=SIZE) as store:
        store.batch(np.array([1]))[:] = 0
        np.testing.assert_array_equal(store.batch(np.array([1])), expected([1]))


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_many_threads_at_once(cache_gb):
    with ImageStore(FakeSplit(100), image_size=SIZE, cache_gb=cache_gb, workers=4) as store:
        errors = []

        def ask(seed):
            rng = np.random.default_rng(seed)
            for _ in range(20):
                indices = rng.integers(0, 100, 16)
                if not np.array_equal(store.batch(indices), expected(indices)):
                    errors.append(indices)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors


@pytest.mark.parametrize("cache_gb", [1.0, 0.0])
def test_broken_image_is_named_every_time(cache_gb):
    with ImageStore(FakeSplit(5, broken={3}), image_size=SIZE, cache_gb=cache_gb) as store:
        for _ in range(2):
            with pytest.raises(UserError, match=r"'3\.png'"):
                store.batch(np.array([2, 3]))
        np.testing.assert_array_equal(store.batch(np.array([2])), expected([2]))


def test_prefetch_gives_the_plan_in_order():
    plan = np.arange(24).reshape(6, 4)
    with (
        ImageStore(FakeSplit(24), image_size=SIZE) as store,
        prefetch(store, plan, depth=2) as batches,
    ):
        seen = 0
        for row, (indices, images) in zip(plan, batches, strict=True):
            np.testing.assert_array_equal(indices, row)
            np.testing.assert_array_equal(images, expected(row))
            seen += 1
        assert seen == 6
        assert batches.wait_seconds > 0
        assert next(batches, None) is None  # stays exhausted
    assert wait_until_gone("prefetch")


def test_prefetch_of_nothing():
    with ImageStore(FakeSplit(2), image_size=SIZE) as store:
        assert list(prefetch(store, [], depth=3)) == []


def test_prefetch_loads_ahead_but_no_further():
    consumed = []

    def plan():
        for i in range(10):
            consumed.append(i)
            yield np.array([i])

    with (
        ImageStore(FakeSplit(10), image_size=SIZE) as store,
        prefetch(store, plan(), depth=2) as batches,
    ):
        next(batches)
        for _ in range(200):
            time.sleep(0.01)
            if len(consumed) >= 4:
                break
        time.sleep(0.05)
        assert len(consumed) == 4  # one taken, two ready, one waiting for room


def test_error_surfaces_at_its_batch():
    with ImageStore(FakeSplit(9, broken={4}), image_size=SIZE) as store:
        batches = prefetch(store, np.arange(9).reshape(3, 3), depth=3)
        next(batches)
        with pytest.raises(UserError, match=r"'4\.png'"):
            next(batches)
        assert next(batches, None) is None
    assert wait_until_gone("prefetch")


def test_error_of_the_plan_surfaces():
    def plan():
        yield np.array([0])
        raise KeyError("plan")

    with ImageStore(FakeSplit(2), image_size=SIZE) as store:
        batches = prefetch(store, plan(), depth=1)
        next(batches)
        with pytest.raises(KeyError, match="plan"):
            next(batches)


@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_leaving_early_ends_the_thread(way):
    plan = (np.array([0, 1]) for _ in range(10_000))
    with ImageStore(FakeSplit(2), image_size=SIZE) as store:
        batches = prefetch(store, plan, depth=1)
        next(batches)
        if way == "close":
            batches.close()
            batches.close()  # a second call is allowed
            assert next(batches, None) is None
        elif way == "with":
            with batches:
                pass
        else:
            del batches
            gc.collect()
        assert wait_until_gone("prefetch")


def test_wait_seconds_counts_only_waiting():
    class Slow(FakeSplit):
        def encoded(self, i):
            time.sleep(0.05)
            return super().encoded(i)

    plan = np.arange(4)[:, None]
    with ImageStore(Slow(4), image_size=SIZE) as store:
        hasty = prefetch(store, plan, depth=2)
        list(hasty)
        assert hasty.wait_seconds > 0.15
        patient = prefetch(store, plan, depth=4)  # from the cache
        time.sleep(0.2)
        list(patient)
        assert patient.wait_seconds < hasty.wait_seconds


def test_a_thread_that_dies_silently(monkeypatch):
    """The consumer does not wait for ever; batches loaded before are returned."""
    monkeypatch.setattr(loader, "QUEUE_TIMEOUT", 0.05)

    def load(store, plan, out, stop):
        del stop
        for row in plan[:2]:
            out.put((row, store.batch(row)))

    monkeypatch.setattr(loader, "_load", load)
    with ImageStore(FakeSplit(6), image_size=SIZE) as store:
        loaded = prefetch(store, np.arange(6).reshape(3, 2))
        np.testing.assert_array_equal(next(loaded)[0], [0, 1])
        np.testing.assert_array_equal(next(loaded)[0], [2, 3])
        with pytest.raises(RunFailure, match="the loading thread has died: the same command"):
            next(loaded)
        loaded.close()


def test_an_image_that_cannot_be_read_is_named():
    class Gone(FakeSplit):
        def encoded(self, i):
            if i == 3:
                raise RuntimeError("the reader's words,\nin two lines")
            return super().encoded(i)

    with ImageStore(Gone(5), image_size=SIZE) as store:
        message = r"^'3.png' cannot be read \(the reader's words, in two lines\): were the prepared"
        with pytest.raises(RunFailure, match=message):
            store.batch(np.array([1, 3]))
