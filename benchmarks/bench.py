"""Benchmark of the engines against the plain loop, interleaved in one run: `make bench`. Compare ratios of medians.

Writes results.json and results.png to this folder. Takes about half an hour on two cores.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import conv2d

import nst_helpers as nst
from benchmarks.plain_loop import COMPARED, PlainLoop, build
from nst_helpers.engine import Request, pick_engine
from nst_helpers.engine.direct import fused_convolution_works
from nst_helpers.images import resize
from nst_helpers.losses.content import feature_reconstruction
from nst_helpers.losses.gatys import CONTENT_LAYER, STYLE_WEIGHTS, gram_distance, total_loss

HERE = Path(__file__).parent
DATA = HERE.parent / "data"


def pictures(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the demo's content and style image, enlarged if necessary, since only their size matters here."""
    images = nst.load_image(DATA / "content" / "hopper.jpg", None), nst.load_image(DATA / "styles" / "night.jpg", None)
    return tuple(
        resize(image, *(max(1, round(side * size / max(image.shape[2:]))) for side in image.shape[2:]))
        for image in images
    )


def machine(device: torch.device) -> dict:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fused convolution of torch": fused_convolution_works(),
    }


def convolutions(size: int) -> list[tuple[int, int, int]]:
    """Return (input channels, output channels, side) of VGG-19's convolutions up to conv5_1."""
    network = nst.VGG("vgg19")
    layers = [stage.conv for stage in network.stages]
    layers = layers[: layers.index("conv5_1") + 1]
    channels = [3, *map(network.channels, layers)]
    return [(channels[i], channels[i + 1], size // network.stride(layer)) for i, layer in enumerate(layers)]


def floor(size: int, device: torch.device) -> dict:
    """Return the seconds that an evaluation's convolutions, forward and backward, take at the highest measured rate.

    It is a lower bound for engines that do not reduce the number of multiplications.
    """
    flop = sum(2 * 2 * 9 * i * o * side * side for i, o, side in convolutions(size))
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        best = 0.0
        for i, o, side in {c for c in convolutions(512) if c[0] >= 64}:
            x = torch.rand(1, i, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
            weight = torch.rand(o, i, 3, 3, device=device, dtype=dtype).to(memory_format=torch.channels_last)
            seconds = timed({"": lambda x=x, weight=weight: conv2d(x, weight, padding=1).sum().item()}, 7)[""]
            best = max(best, 2 * 9 * i * o * side * side / seconds)
        rates[str(dtype).removeprefix("torch.")] = best
    return {
        "GFLOP": flop / 1e9,
        "GFLOP/s": {k: v / 1e9 for k, v in rates.items()},
        "seconds": flop / max(rates.values()),
    }


def timed(jobs: dict, rounds: int) -> dict[str, float]:
    """Return the median seconds of each job. The jobs alternate; of two calls in each round, the second is measured."""
    seconds = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            job()  # warm-up: its data may have left the cache while others ran
            began = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


class Apart:
    """The function that `make(*args)` returns, in a separate process, so that jobs do not share memory or caches."""

    def __init__(self, make, *args):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, *args), daemon=True)
        self._process.start()
        self._pipe.recv()

    def __call__(self, *args):
        self._pipe.send(args)
        return self._pipe.recv()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.join()


def serve(pipe, make, *args) -> None:
    made = make(*args)
    pipe.send("ready")
    with suppress(EOFError, BrokenPipeError):  # the parent process has closed the pipe
        while True:
            pipe.send(made(*pipe.recv()))


# ---------------------------------------------------------------------------------------------- one evaluation

MODULES = {  # {job: (memory format, whether the weights are frozen, autocast format)}
    "plain loop": (torch.contiguous_format, True, None),
    "plain loop, weights not frozen": (torch.contiguous_format, False, None),
    "plain loop, channels_last": (torch.channels_last, True, None),
    "plain loop, channels_last, bfloat16 autocast": (torch.channels_last, True, torch.bfloat16),
}
ENGINES = {  # {job: (engine, precision, whether the whole evaluation is in low precision)}
    "by hand, direct, float32": ("direct", "float32", False),
    "by hand, direct, half": ("direct", "auto", False),
    "by hand, direct, half, low precision": ("direct", "auto", True),
    "by hand, winograd, float32": ("winograd", "float32", False),
    "by hand, winograd, half": ("winograd", "auto", False),
    "by hand, winograd, half, low precision": ("winograd", "auto", True),
}


def evaluation(name: str, size: int):
    """Return a function that evaluates loss and gradient once, as the job in MODULES or ENGINES says."""
    network = nst.load_vgg()
    content, style = (image.to(network.device) for image in pictures(size))
    noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(0)).to(content)
    image = (content + 0.1 * noise).clamp(0, 1)
    if name in MODULES:
        memory_format, frozen, dtype = MODULES[name]
        model, terms = build(content, style, network.to(memory_format=memory_format))
        model.requires_grad_(not frozen)
    else:
        kind, precision, low = ENGINES[name]
        engine = pick_engine(network, kind, precision)
        engine.low_precision = low
        with torch.no_grad():
            target = engine.forward(content, Request([CONTENT_LAYER], []))[0][CONTENT_LAYER]
            style_grams = engine.forward(style, Request([], list(STYLE_WEIGHTS)))[1]

    def by_modules() -> None:
        x = image.detach().requires_grad_()
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            model(x)
        sum(term.loss for term in terms).backward()
        x.grad.sum().item()

    def by_engine() -> None:
        maps, grams, tape = engine.forward(image, Request([CONTENT_LAYER], list(STYLE_WEIGHTS)))
        style = sum(gram_distance(grams[layer], style_grams[layer]) for layer in STYLE_WEIGHTS)
        content, by_maps = feature_reconstruction(maps[CONTENT_LAYER], target)
        total_loss(content, style, 1.0, COMPARED["beta"])
        by_grams = {
            layer: (grams[layer] - style_grams[layer]) * (COMPARED["beta"] / (2 * grams[layer].numel()))
            for layer in STYLE_WEIGHTS
        }
        engine.backward(tape, {CONTENT_LAYER: by_maps}, by_grams).sum().item()

    return by_modules if name in MODULES else by_engine


def evaluations(size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Return {job: seconds of one evaluation}: the plain loop, single optimizations of it, and the engines."""
    names = [name for name in (*MODULES, *ENGINES) if device.type == "cpu" or "winograd" not in name]
    with ExitStack() as stack:
        return timed({name: stack.enter_context(Apart(evaluation, name, size)) for name in names}, rounds)


# ---------------------------------------------------------------------------------------------- the race


def plain_racer(size: int, steps: int):
    """Return a function that makes the next 20 to 25 evaluations of the plain loop."""
    network = nst.load_vgg()
    loop = PlainLoop(*(image.to(network.device) for image in pictures(size)), network)
    iterations = loop.iterations()

    def advance():
        if len(loop.losses) < steps:
            next(iterations)
        return len(loop.losses), loop.seconds, loop.image.detach().clamp(0, 1).cpu()

    return advance


def racer(size: int, steps: int, start: str):
    """Return a function that makes the next 5 steps of the toolkit."""
    run = nst.StyleTransfer(*pictures(size), sizes=(size,), steps=steps, start=start, **COMPARED)
    seconds = 0.0

    def advance():
        nonlocal seconds
        began = time.perf_counter()
        for _ in range(5):
            if not run.done:
                run.step()
        seconds += time.perf_counter() - began
        return run.state.step, seconds, run.best

    return advance


def race(size: int, network: nst.VGG, steps: int) -> dict:
    """Return losses and seconds of the plain loop and of the toolkit over the number of evaluations.

    The toolkit starts from the content image, like the plain loop, and in another run from its recolored start. It may
    make 20 % more evaluations. All losses are computed in float32 by autograd; that time is not counted.
    """
    judge = nst.StyleTransfer(*pictures(size), network=network, sizes=(size,), steps=1, engine="plain", **COMPARED)
    racers = {  # {name: (constructor, arguments, calls in a round)}
        "plain loop": (plain_racer, (size, steps), 1),
        "toolkit": (racer, (size, steps + steps // 5, "content"), 5),
        "toolkit, recolored start": (racer, (size, steps + steps // 5, "recolored"), 5),
    }
    curves = {name: [] for name in racers}
    with ExitStack() as stack:
        runs = {name: stack.enter_context(Apart(make, *args)) for name, (make, args, _) in racers.items()}
        while not curves["plain loop"] or curves["plain loop"][-1][0] < steps:
            for name, (_, _, calls) in racers.items():
                for _ in range(calls):
                    evaluations, seconds, image = runs[name]()
                    if not curves[name] or evaluations > curves[name][-1][0]:
                        loss = judge.score(image)
                        curves[name].append((evaluations, seconds, loss))
            print(*(curve[-1] for curve in curves.values()), flush=True)
    toolkit = list(racers)[1:]
    counts = [n for n in (100, 200, 300) if n <= steps]
    return {"curves": curves, "speed-up": {name: {n: reached(curves, name, n) for n in counts} for name in toolkit}}


def reached(curves: dict, name: str, evaluations: int) -> dict:
    """Return the seconds of a number of evaluations of the plain loop, and of another run until its loss is as low."""
    before, after = None, None
    for point in curves["plain loop"]:
        if point[0] <= evaluations:
            before = point
        elif after is None:
            after = point
    share = (evaluations - before[0]) / (after[0] - before[0]) if after else 0.0
    seconds, loss = (b + share * (a - b) for b, a in zip(before[1:], (after or before)[1:], strict=True))
    for (_, began, high), (count, ended, low) in pairwise(curves[name]):
        if low <= loss < high:
            taken = began + (high - loss) / (high - low) * (ended - began)
            return {"loss": loss, "plain": seconds, "toolkit": taken, "evaluations": count, "ratio": seconds / taken}
    return {"loss": loss, "plain": seconds, "toolkit": None}


# ---------------------------------------------------------------------------------------------- memory, and the report


def memory(size: int, engine: str, steps: int) -> float:
    """Return the peak memory, in GB, of a process that paints from coarse to fine up to a size."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.bench",
        "--paint",
        str(size),
        "--engine",
        engine,
        "--steps",
        str(steps),
    ]
    return float(
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent).stdout.split()[-1]
    )


def paint(size: int, engine: str, steps: int) -> None:
    content, style = pictures(size)
    nst.transfer(content, style, steps=steps, engine=engine, progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)  # Linux counts in KiB


def plot(results: dict) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    size = "512" if "512" in results["evaluation"] else next(iter(results["evaluation"]))
    rows = results["evaluation"][size]
    names = list(rows)[::-1]
    left.barh(names, [rows["plain loop"] / rows[name] for name in names], color="#4c78a8")
    left.set(title=f"Speed of one evaluation at {size} px, plain loop = 1")
    for name, curve in results["race"]["curves"].items():
        middle.plot([p[1] for p in curve], [p[2] for p in curve], label=name)
    middle.set(title="Loss over time", xlabel="seconds", ylabel="total loss, scored in float32", yscale="log")
    middle.legend()
    sizes = [int(s) for s in results["evaluation"]]
    for name in ("plain loop", names[0]):
        right.plot(sizes, [results["evaluation"][str(s)][name] for s in sizes], marker="o", label=name)
    right.set(title="Seconds of one evaluation", xlabel="longest side in px", xscale="log", yscale="log", xticks=sizes)
    right.set_xticklabels(sizes)
    right.minorticks_off()
    right.legend()
    figure.savefig(results["plot"], dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="of single evaluations")
    parser.add_argument("--race", type=int, default=512, help="size of the race")
    parser.add_argument("--steps", type=int, default=300, help="evaluations of the race")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds for medians")
    parser.add_argument("--memory", type=int, nargs="*", default=[512, 1024, 2048], help="sizes to measure memory at")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--paint", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="auto", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.paint:
        return paint(options.paint, options.engine, options.steps)
    network = nst.load_vgg()
    results = {"machine": machine(network.device), "plot": str(options.out.with_suffix(".png")), "evaluation": {}}
    for size in options.sizes:
        rows = evaluations(size, options.rounds if size < 1024 else min(3, options.rounds), network.device)
        results["evaluation"][str(size)] = rows
        for name, seconds in rows.items():
            print(f"{size:5} px  {seconds:7.3f} s  {rows['plain loop'] / seconds:5.2f}×  {name}", flush=True)
    results["floor"] = floor(options.race, network.device)
    results["race"] = race(options.race, network, options.steps)
    results["memory"] = {
        size: {
            "toolkit, memory of L-BFGS full": memory(size, "auto", 22),
            "plain engine, 2 evaluations": memory(size, "plain", 2),
        }
        for size in options.memory
    }
    plot(results)
    results["plot"] = Path(results["plot"]).name
    options.out.write_text(json.dumps(results, indent=1))
    print(json.dumps({k: results[k] for k in ("floor", "memory")}, indent=1), results["race"]["speed-up"])


if __name__ == "__main__":
    main()
