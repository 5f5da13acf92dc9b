"""A training step of BAT-net in PyTorch, as `batnet_jax.step.train_step` takes it.

Losses, augmentation, dropout, batch normalisation, optimizer, weights and batch are the same.
`train_step.py` races the two steps.
"""

import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional
from torch_batnet import Branches, Stem, TorchBATNet
from torch_fast import FastAttention, FastBATNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MARGIN, NEGATIVES, SMOOTHING = 1.0, 5, 0.1


def normalise(images: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """[b, h, w, 3] bytes to [b, 3, h, w], whose memory stays channels last."""
    # No tensor is made of MEAN: a CUDA graph can't hold the copy from the host.
    scaled = (images[..., k].to(dtype).div(255).sub(MEAN[k]).div(STD[k]) for k in range(3))
    return torch.stack(list(scaled), -1).permute(0, 3, 1, 2)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Flip, enlarge to 9/8 and crop, random erasing, each at 1/2; [b, h, w, 3] bytes."""
    x = normalise(images)
    b, _, height, width = x.shape
    device = x.device

    def coin():
        return (torch.rand(b, device=device) < 0.5)[:, None, None, None]

    def whole(below):
        return (torch.rand(b, device=device) * below).long()

    x = torch.where(coin(), x.flip(3), x)
    size = (round(height * 9 / 8), round(width * 9 / 8))
    large = functional.interpolate(x, size, mode="bilinear", align_corners=False)
    rows = whole(size[0] - height + 1)[:, None] + torch.arange(height, device=device)
    columns = whole(size[1] - width + 1)[:, None] + torch.arange(width, device=device)
    number = torch.arange(b, device=device)[:, None, None]
    crop = large.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
    x = torch.where(coin(), crop.permute(0, 3, 1, 2), x)

    area = (0.02 + 0.38 * torch.rand(b, 100, device=device)) * (height * width)
    aspect = 0.3 + (1 / 0.3 - 0.3) * torch.rand(b, 100, device=device)
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    first = ((heights < height) & (widths < width)).int().argmax(1, keepdim=True)
    h, w = heights.gather(1, first).long(), widths.gather(1, first).long()
    row, column = whole(height - h[:, 0] + 1)[:, None], whole(width - w[:, 0] + 1)[:, None]
    down, across = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_rows = (down >= row) & (down < row + h)
    inside_columns = (across >= column) & (across < column + w)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
    return torch.where(inside & coin(), 0, x)


def triplet_loss(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As `losses.triplet_loss`."""
    squares = features.square().sum(1)
    squared = squares[:, None] + squares - 2 * features @ features.t()
    apart = squared > 1e-12
    distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    same = labels[:, None] == labels
    positive = torch.where(same, distances, -torch.inf).amax(1)
    negative = torch.where(same, torch.inf, distances).topk(NEGATIVES, largest=False).values
    return (positive[:, None] - negative + MARGIN).relu().mean()


def multi_task_loss(features: list, scores: list, labels: torch.Tensor) -> torch.Tensor:
    """As `losses.multi_task_loss`; at least in float32."""

    def wide(x):
        return x.to(torch.promote_types(x.dtype, torch.float32))

    total = sum(triplet_loss(wide(f), labels) for f in features) + sum(
        functional.cross_entropy(wide(s), labels, label_smoothing=SMOOTHING) for s in scores
    )
    return total / len(features)


def make_net(style: str, weights: dict, **net) -> TorchBATNet:
    """A network in training mode with these weights (the published names).

    Args:
      style: "published" (NCHW) or "best" (channels last).
      weights: name to tensor.
      net: arguments of `TorchBATNet`.
    """
    model = {"published": TorchBATNet, "best": FastBATNet}[style](**net)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    unused = re.compile(r".*\.num_batches_tracked|features\.part_predictor.*")
    left = [*unexpected, *(name for name in missing if not unused.fullmatch(name))]
    assert not left, left[:3]
    layout = torch.channels_last if style == "best" else torch.contiguous_format
    return model.to(memory_format=layout).train()


class Contestant:
    """A way to take steps."""

    def __init__(self, name: str, task: dict):
        """Loads the weights; compiles nothing yet.

        Args:
          name: "torch-published" or "torch-best", with nothing or one of
            "-compiled": torch.compile of all but the optimizer;
            "-blocks": of each block of the network, of which those alike are compiled once;
            "-captured": a CUDA graph of the whole step, optimizer included;
            "-blocks-captured": both.
          task: see `train_step.py`.
        """
        _, style, *how = name.split("-")
        self.how = set(how)
        self.task = task
        self.device = torch.device("cuda" if task["device"] == "gpu" else "cpu")
        torch.set_float32_matmul_precision("high")  # TF32, as JAX does; nothing on a CPU
        torch.backends.cudnn.benchmark = True  # the sizes stay: let it choose its algorithms
        net = {key: task[key] for key in ("identities", "reduction", "parts", "width", "embedding")}
        model = make_net(style, load_file(task["weights"]), **net).to(self.device)
        options = {"fused": True} if style == "best" else {}
        if "captured" in self.how:
            options["capturable"] = True
        for block in model.modules():
            if "blocks" in self.how and isinstance(block, Branches | Stem | FastAttention):
                torch._dynamo.config.recompile_limit = 32  # so many unlike ones
                block.compile(dynamic=False)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-4, **options
        )
        half = task["dtype"] == "bfloat16"
        layout = torch.channels_last if style == "best" else torch.contiguous_format

        def loss(images, labels):
            with torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext():
                x = augment(images).contiguous(memory_format=layout)
                features, scores = model.streams(x)
            return multi_task_loss(features, scores, labels)

        self.loss: Callable = loss
        if "compiled" in self.how:
            self.loss = torch.compile(loss)
        self.images = torch.from_numpy(task["images"])
        self.labels = torch.from_numpy(task["labels"])
        if self.device.type == "cuda":
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()

    def step(self) -> torch.Tensor:
        """One step; waits for nothing."""
        batch = (t.to(self.device, non_blocking=True) for t in (self.images, self.labels))
        return self._work(*batch)

    def _work(self, images, labels) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(images, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def compile(self) -> dict:
        """Return the seconds until the step is compiled, if anything is compiled."""
        start = time.perf_counter()
        self.take(1)
        if "captured" in self.how:
            self._capture()
        return {"compile": time.perf_counter() - start} if self.how else {}

    def _capture(self) -> None:
        """Capture the step as a CUDA graph, which every further step replays on the same memory."""
        place = [t.to(self.device) for t in (self.images, self.labels)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._work(*place)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._work(*place)

        def replay(images, labels):
            place[0].copy_(images)
            place[1].copy_(labels)
            graph.replay()
            return loss.clone()

        self._work = replay

    def take(self, steps: int) -> float:
        """Return the seconds of `steps` steps, until their losses are known."""
        start = time.perf_counter()
        losses = [self.step() for _ in range(steps)]
        if not torch.stack(losses).isfinite().all():
            raise FloatingPointError("the loss is not finite")
        return time.perf_counter() - start

    def _sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, function: Callable, calls: int) -> float:
        """The least seconds of a call."""
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            self._sync()
            best = min(best, (time.perf_counter() - start) / calls)
        return best

    def apart(self) -> dict:
        """The seconds of augmentation alone, and of one product of square matrices."""
        images = self.images.to(self.device)
        alone = torch.compile(augment) if "compiled" in self.how else augment
        side = self.task["side"]
        a = torch.rand(side, side, device=self.device, dtype=getattr(torch, self.task["dtype"]))
        alone(images), a @ a
        self._sync()
        calls = 10 if self.device.type == "cuda" else 1
        return {
            "augment": self.time(lambda: alone(images), calls),
            "product": self.time(lambda: a @ a, calls),
        }

    def start_peak(self) -> None:
        """Measure the peak of device memory anew from here on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Bytes of device memory since; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None

    def profile(self, folder: Path) -> None:
        """Traces 3 steps: a Chrome trace, and a table of what took the time."""
        kinds = torch.profiler.ProfilerActivity
        wanted = [kinds.CPU, *([kinds.CUDA] if self.device.type == "cuda" else [])]
        with torch.profiler.profile(activities=wanted) as trace:
            self.take(3)
        folder.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(folder / "trace.json.gz"))
        key = f"self_{self.device.type}_time_total"
        (folder / "table.txt").write_text(trace.key_averages().table(sort_by=key, row_limit=40))
