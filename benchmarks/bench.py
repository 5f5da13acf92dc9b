"""What the package costs on this machine: a bounded set of measures, each beside a yardstick.

    make bench                        # or: python benchmarks/bench.py [--only NAME ...] [--quick]
    make bench COMPARE=old.json       # says, too, what changed since old.json was written

Each measure has a process of its own. Ours and its yardstick take turns, after a call each that is
not timed, so that both meet the same machine. The table has the ratio first: ours over the
yardstick, as the median of the turns with the lowest and the highest. --json FILE (default
runs/bench.json) keeps every turn, the machine and the versions.

--compare FILE divides the ratios of now by the ratios of then. A measure has changed if the 95 %
bootstrap interval of the quotient of the two medians leaves out 1. The yardstick takes a busy
machine's share out of the quotient, but not another machine's nature: compare on one machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from experiments import processor

from batnet_jax.runtime.atomic_write import write_atomically

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 2000
"""Of the bootstrap."""


class Measure(NamedTuple):
    """Something of ours, and what it is held against."""

    ours: Callable[[], float]
    """Runs once; returns seconds."""
    yardstick: Callable[[], float]
    what: str
    """What ours does."""
    beside: str
    """What the yardstick does."""
    turns: int = 9


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that runs `function`, waits for its arrays and returns seconds."""
    import jax

    def call() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    return call


def draw(number: int, seed: int, dimensions: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Return [number, dimensions] float32 features around centres, and their identities."""
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, max(2, number // 20), number)
    centres = np.random.default_rng(0).standard_normal((max(2, number // 20), dimensions))
    features = centres[pids] + rng.standard_normal((number, dimensions))
    return features.astype(np.float32), pids


def product(a: np.ndarray, b: np.ndarray) -> Callable[[], float]:
    """Return a timer of the bare product of all rows of a with all rows of b."""
    import jax
    import jax.numpy as jnp

    multiply = jax.jit(lambda x, y: x @ y.T)
    x, y = jnp.asarray(a), jnp.asarray(b)
    return timed(lambda: multiply(x, y))


def evaluator(quick: bool) -> Measure:
    """An evaluation between epochs."""
    from batnet_jax.retrieval import evaluate

    queries, images = (50, 500) if quick else (1000, 8000)
    (q, q_pids), (g, g_pids) = draw(queries, 1), draw(images, 2)
    return Measure(
        timed(lambda: evaluate(q, q_pids, None, g, g_pids, None)["mAP"]),
        product(q, g),
        f"evaluate {queries:,} x {images:,}",
        "the bare product",
    )


def reranking(quick: bool) -> Measure:
    """k-reciprocal re-ranking."""
    from batnet_jax.retrieval import evaluate_reranked

    queries, images = (20, 120) if quick else (300, 2000)
    (q, q_pids), (g, g_pids) = draw(queries, 1), draw(images, 2)
    everything = np.concatenate([q, g])
    return Measure(
        timed(lambda: evaluate_reranked(q, q_pids, None, g, g_pids, None)["mAP"]),
        product(everything, everything),
        f"evaluate_reranked {queries:,} x {images:,}",
        "the bare product of all pairs",
    )


def search(quick: bool) -> Measure:
    """The best ten of a gallery."""
    from batnet_jax.retrieval import top_k

    queries, images = (8, 1000) if quick else (64, 50_000)
    q, g = draw(queries, 1)[0], draw(images, 2)[0]
    return Measure(
        timed(lambda: top_k(q, g, 10)),
        product(q, g),
        f"the best 10 of {images:,} for {queries} queries",
        "the bare product",
    )


def bi_attention(quick: bool) -> Measure:
    """Forward and backward of the block at p2."""
    from bi_attention import compiled

    batch, reduction = (1, 16) if quick else (16, 4)
    steps = {way: compiled(way, reduction, batch, "float32") for way in ("ours", "outer")}
    ours, outer = (timed(lambda step=step, a=a: step(*a)) for step, a in steps.values())
    return Measure(
        ours, outer, f"Bi-attention at p2, batch {batch}, r = {reduction}", "by the outer product"
    )


def step_task(quick: bool, folder: str) -> dict[str, Any]:
    """Return what `jax_step.Contestant` takes: the demo's network and batch."""
    rng = np.random.default_rng(0)
    batch, size = (8, (32, 16)) if quick else (32, (128, 64))
    net = {"width": 1 / 16 if quick else 0.25, "reduction": 4, "parts": 1 if quick else 4}
    return {
        **net,
        "size": size,
        "identities": 300,
        "dtype": "float32",
        "accumulate": 1,
        "device": "cpu",
        "side": 256 if quick else 1024,
        "folder": folder,
        "images": rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8),
        "labels": np.repeat(np.arange(batch // 4), 4),
    }


def training_step(quick: bool) -> Measure:
    """A training step at the demo's size, against the time of its operations in one product."""
    import jax
    import jax.numpy as jnp
    from jax_step import Contestant
    from network_cost import training_flops

    task = step_task(quick, tempfile.mkdtemp())
    ours = Contestant("ours", task)
    ours.compile()
    net = {name: task[name] for name in ("size", "width", "reduction", "parts", "identities")}
    operations = training_flops(**net) * len(task["images"])
    side = task["side"]
    a = jax.random.uniform(jax.random.key(0), (side, side))
    matmul = jax.jit(jnp.matmul)
    multiply = timed(lambda: matmul(a, a))
    return Measure(
        lambda: ours.take(1),
        lambda: multiply() * operations / (2 * side**3),
        f"a step of {len(task['images'])} images, {operations / 1e9:.3g} GFLOP",
        "as many operations of a large product",
    )


def compilation(quick: bool) -> Measure:
    """Compiling the demo's step, in seconds of all cores, against a plain network's step."""
    import jax
    import jax.numpy as jnp
    from jax_step import Contestant

    def compile_step() -> float:
        contestant = Contestant("ours", step_task(quick, tempfile.mkdtemp()))
        start = time.process_time()
        contestant.function.lower(contestant.state, contestant._split()).compile()
        return time.process_time() - start

    def plain(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = jax.nn.relu(jax.lax.conv(x, kernel, (1, 1), "SAME"))
        return jnp.square(x).mean()

    def compile_plain() -> float:
        kernels = [jnp.ones((8, 8, 3, 3))] * 20
        start = time.process_time()
        # A new function each time: JAX keeps what it has compiled.
        jax.jit(jax.grad(lambda k, x: plain(k, x))).lower(
            kernels, jnp.ones((2, 8, 32, 16))
        ).compile()
        return time.process_time() - start

    return Measure(
        compile_step,
        compile_plain,
        "compile the demo's step, processor seconds",
        "compile the gradient of 20 plain convolutions",
        turns=1 if quick else 2,
    )


def images(quick: bool) -> Measure:
    """Decoding and resizing of JPEG files."""
    import cv2

    from batnet_jax.data.loading.loader import decode

    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8), (128, 256))
    encoded = cv2.imencode(".jpg", smooth)[1].tobytes()
    number, size = 5 if quick else 300, (256, 128)

    def bare() -> None:
        for _ in range(number):
            found = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
            assert found is not None
            cv2.resize(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), size[::-1])

    return Measure(
        timed(lambda: [decode(encoded, size) for _ in range(number)]),
        timed(bare),
        f"read {number} JPEG files of 256 x 128 from memory",
        "OpenCV's calls alone",
    )


def process(*words: str) -> Callable[[], float]:
    """Return a timer of a Python process."""

    def call() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - start

    return call


def help_page(quick: bool) -> Measure:
    """The command line's answer to --help."""
    turns = 1 if quick else 9
    words = "-m", "batnet_jax.main", "--help"
    return Measure(process(*words), process("-c", "pass"), "batnet --help", "Python alone", turns)


def imports(quick: bool) -> Measure:
    """What `load` imports."""
    turns = 1 if quick else 9
    ours = process("-c", "import batnet_jax; batnet_jax.load")
    return Measure(
        ours, process("-c", "import flax"), "import what load needs", "import flax", turns
    )


MEASURES: dict[str, Callable[[bool], Measure]] = {
    "step": training_step,
    "bi_attention": bi_attention,
    "images": images,
    "evaluator": evaluator,
    "reranking": reranking,
    "search": search,
    "compile": compilation,
    "help": help_page,
    "imports": imports,
}


def child(name: str, quick: bool) -> None:
    """Take the turns of one measure and print them as JSON."""
    measure = MEASURES[name](quick)
    turns = min(measure.turns, 2) if quick else measure.turns
    if measure.turns > 2:  # else a call is so dear that it is not made for nothing
        _ = measure.ours(), measure.yardstick()
    pairs = [(measure.ours(), measure.yardstick()) for _ in range(turns)]
    ours, beside = (list(seconds) for seconds in zip(*pairs, strict=True))
    found = {"what": measure.what, "beside": measure.beside}
    print(json.dumps(found | {"ours_s": ours, "yardstick_s": beside}))


def ratios(result: dict[str, Any]) -> list[float]:
    """Return ours over the yardstick, turn by turn."""
    return [a / b for a, b in zip(result["ours_s"], result["yardstick_s"], strict=True)]


def change(now: list[float], then: list[float]) -> tuple[float, float, float]:
    """Return the quotient of the medians, and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    drawn = [np.median(rng.choice(values, (DRAWS, len(values))), axis=1) for values in (now, then)]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return statistics.median(now) / statistics.median(then), float(low), float(high)


def verdict(now: list[float], then: list[float]) -> str:
    """Return the change of a measure as words."""
    if min(len(now), len(then)) < 5:
        return f"{statistics.median(now) / statistics.median(then):.2f}x, too few turns to tell"
    middle, low, high = change(now, then)
    text = f"{middle:.2f}x [{low:.2f}, {high:.2f}]"
    if low <= 1 <= high:
        return f"{text}, within the noise"
    return f"{text}, {'slower' if low > 1 else 'faster'}"


def table(found: dict[str, Any], old: dict[str, Any] | None) -> str:
    """Return the measures as a Markdown table, ratios first."""
    head = ["measure", "ratio", "lowest to highest", "ours, s", "what", "beside"]
    head += ["against then"] if old else []
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * 3 + "|---" * (len(head) - 4) + "|"]
    for name, result in found["measures"].items():
        turns = ratios(result)
        cells = [name, f"{statistics.median(turns):.3g}", f"{min(turns):.3g} to {max(turns):.3g}"]
        cells += [f"{statistics.median(result['ours_s']):.3g}", result["what"], result["beside"]]
        if old:
            then = old["measures"].get(name)
            same = then and then["what"] == result["what"]
            cells.append(verdict(turns, ratios(then)) if same else "not measured then")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{found['machine']}; {', '.join(found['versions'])}"])


def read_old(path: Path) -> dict[str, Any]:
    """Read a file that an earlier run wrote.

    Raises: SystemExit if it cannot be read or has no measures.
    """
    try:
        old = json.loads(path.read_text())
        for result in old["measures"].values():
            ratios(result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"error: '{path}' holds no measures of bench.py: {error}") from error
    return old


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"))
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the measures")
    parser.add_argument("--child", choices=MEASURES)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.quick)
        return
    old = read_old(args.compare) if args.compare else None
    found: dict[str, Any] = {
        "machine": processor(),
        "versions": [f"{name} {version(name)}" for name in ("batnet-jax", "jax", "numpy")],
        "measures": {},
    }
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        words = [__file__, "--child", name, *(["--quick"] if args.quick else [])]
        done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"error: the measure '{name}' failed")
        found["measures"][name] = json.loads(done.stdout.splitlines()[-1])
    print(table(found, old))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.json, json.dumps(found, indent=1) + "\n")
    print(f"\nwritten: {args.json}")


if __name__ == "__main__":
    main()
