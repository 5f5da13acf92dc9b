"""Where the time of a trace goes: the device's kernels by name, the longest first.

    python benchmarks/kernels.py DIR [--top 20]

DIR is a folder that `--config.profile=True` or a benchmark's --profile has written. If it holds
several traces, the newest one is read. On a GPU the table lists the kernels and copies of the GPU's
streams, on a CPU the operations of XLA's threads. The last line gives

* the number of kernels and calls, and the sum of their times;
* the share of matrix products and convolutions in the sum, by the names that XLA, cuDNN and cuBLAS
  give to kernels;
* the time from the start of the first kernel to the end of the last, and how busy the device was in
  it: more than 100 % on a CPU, where threads work side by side;
* the number of different CUDA graphs, if there are any.
"""

import argparse
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PRODUCT = re.compile(r"xmma|cutlass|gemm|nvjet|cudnn|conv|Padding|dot", re.IGNORECASE)


def read_events(folder: Path) -> list[dict]:
    """The events of the newest trace in Chrome's format."""
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    traces = traces or sorted(folder.rglob("perfetto_trace.json.gz"))
    if not traces:
        raise SystemExit(f"error: no trace below '{folder}': name what a --profile has written")
    with gzip.open(traces[-1], "rt") as file:
        return json.load(file)["traceEvents"]


def device_events(events: list[dict]) -> Iterator[dict]:
    """What ran on the device: kernels and copies, each once."""
    names = {(e["pid"], e.get("tid")): e["args"]["name"] for e in events if is_name(e, "thread")}
    processes = {e["pid"]: e["args"]["name"] for e in events if is_name(e, "process")}
    gpus = {pid for pid, name in processes.items() if "GPU" in name or "gpu" in name}
    for event in events:
        if event.get("ph") != "X":
            continue
        thread = names.get((event["pid"], event.get("tid")), "")
        on_gpu = event["pid"] in gpus and thread.startswith("Stream")
        if on_gpu or (not gpus and "hlo_op" in event.get("args", {})):
            yield event


def is_name(event: dict, kind: str) -> bool:
    """Whether an event names a thread or a process."""
    return event.get("ph") == "M" and event.get("name") == f"{kind}_name"


def is_graph(event: dict) -> bool:
    """Whether an event is a kernel of one of XLA's command buffers."""
    return str(event.get("args", {}).get("hlo_op", "")).startswith("command_buffer")


def summarise(events: list[dict], top: int) -> list[str]:
    """The lines of the table."""
    spent, calls = defaultdict(float), defaultdict(int)
    first, last = float("inf"), 0.0
    for event in device_events(events):
        name = event["name"][:70]
        spent[name] += event["dur"]
        calls[name] += 1
        first, last = min(first, event["ts"]), max(last, event["ts"] + event["dur"])
    total = sum(spent.values())
    if not total:
        return ["nothing ran on a device"]
    lines = ["| ms | share | calls | kernel |", "|---:|---:|---:|---|"]
    for name, time in sorted(spent.items(), key=lambda item: -item[1])[:top]:
        lines.append(f"| {time / 1e3:,.2f} | {time / total:.1%} | {calls[name]} | `{name}` |")
    span = last - first
    graphs = {e["args"]["hlo_op"] for e in events if is_graph(e)}
    lines.append(f"\n{len(spent)} kernels, {sum(calls.values()):,} calls, {total / 1e3:,.1f} ms")
    products = sum(time for name, time in spent.items() if PRODUCT.search(name))
    lines[-1] += f", {products / total:.0%} products, in {span / 1e3:,.1f} ms: "
    lines[-1] += f"{total / span:.0%} busy"
    if graphs:
        lines[-1] += f", {len(graphs)} CUDA graphs"
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--top", type=int, default=20)
    args = parser.parse_args()
    print("\n".join(summarise(read_events(args.folder), args.top)))


if __name__ == "__main__":
    main()
