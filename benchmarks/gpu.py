"""Measurements on a graphics card, in under 8 minutes: `python -m benchmarks.gpu`, or `make bench-gpu`.

Correctness, speed, memory and kernels of each engine beside the plain loop on the same card, its share of the roofline,
all style losses, and paintings. Prints Markdown tables, and writes gpu-<card>.json and the paintings.
"""

import argparse
import gc
import json
import platform
import re
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.functional import cosine_similarity
from torch.profiler import ProfilerActivity, profile

import nst_helpers as nst
from benchmarks.bench import pictures
from benchmarks.plain_loop import COMPARED
from benchmarks.roofline import peaks, roofline, seconds_a_call, tf32
from benchmarks.runners import CHOICES, PLAIN, Toolkit, Tutorial, network_for
from nst_helpers.engine.graphs import WARM_UP
from nst_helpers.images import resize
from nst_helpers.losses.style import STYLE_LOSSES

BUDGET_S = 450  # after which no measurement begins
BATCH_S, MOST_CALLS, PROFILED = 0.1, 50, 5  # calls that are timed together, and steps that are profiled
PAINTINGS = (512, 512, 1024)  # px; the first one also starts the libraries


class Measurements:
    """The measurements, and the report of their results."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.began, self.device = options, time.perf_counter(), torch.device(options.device)
        self.on_cuda = self.device.type == "cuda"
        card = torch.cuda.get_device_name(self.device) if self.on_cuda else self.device.type
        self.name = "gpu-" + re.sub(r"[^a-z0-9]+", "-", card.lower().removeprefix("nvidia")).strip("-")
        self.report: dict[str, Any] = {"card": card, "torch": torch.__version__, "python": platform.python_version()}
        self.report |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "trained": {}, "peaks": {}}
        self.report |= {name: [] for name in ("paintings", "losses", "engines", "left out", "warnings", "errors")}

    def attempt(self, what: str, measure: Callable, *args) -> Any:
        """Return what a measurement finds; {} if it fails or the time is up, which the report says."""
        if (elapsed := time.perf_counter() - self.began) > BUDGET_S:
            self.report["left out"].append(what)
            return {}
        print(f"{elapsed:5.0f} s  {what}", flush=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return measure(*args)
            except Exception:  # one that fails must not hide the others
                self.report["errors"].append({"what": what, "traceback": traceback.format_exc()})
                traceback.print_exc(limit=-3)
                return {}
            finally:
                self.report["warnings"] += [f"{what}: {text}" for text in sorted({str(one.message) for one in caught})]

    def timed(self, **jobs: Callable) -> dict[str, float]:
        """Return the median milliseconds of each job, after a warm-up. Batches of the jobs alternate."""
        for job in jobs.values():
            seconds_a_call(job, WARM_UP + 1, self.device)
        once = {name: seconds_a_call(job, 1, self.device) for name, job in jobs.items()}
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(self.options.rounds):
            for name, job in jobs.items():
                found[name].append(seconds_a_call(job, min(MOST_CALLS, 1 + int(BATCH_S / once[name])), self.device))
        return {name: 1000 * statistics.median(times) for name, times in found.items()}

    def make(self, make: Callable, row: dict) -> Any:
        """Return a runner that has made its first steps, and add to a row the most memory that it has taken."""
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        runner = make()
        seconds_a_call(runner.step, WARM_UP + 2, self.device)
        if self.on_cuda:
            row["peak GB"] = (torch.cuda.max_memory_allocated() - before[0]) / 1e9
            row["reserved GB"] = (torch.cuda.max_memory_reserved() - before[1]) / 1e9
        return runner

    def correctness(self, runner, right: tuple[Tensor, Tensor]) -> dict:
        """Return the errors of loss and gradient."""
        (loss, gradient), (right_loss, right_gradient) = runner.evaluate(), right
        cosine = cosine_similarity(gradient.double().flatten(), right_gradient.double().flatten(), 0)
        return {"loss off by": abs(loss / right_loss - 1).item(), "1 - cosine": 1 - cosine.item()}

    def speed(self, runner, baseline: Tutorial | None) -> dict:
        """Return milliseconds of an evaluation and of a step, alternating with the baseline's, and the ratios."""
        found: dict = {}
        for name in ("evaluate", "step"):
            theirs = {"theirs": getattr(baseline, name)} if baseline else {}
            times = self.timed(ours=getattr(runner, name), **theirs)
            found[f"{name} ms"] = times["ours"]
            if baseline:
                found[f"{name} ×"] = times["theirs"] / times["ours"]
        return found | runner.facts()

    def kernels(self, runner) -> dict:
        """Return the number of a step's kernels, their milliseconds, and the slowest ones."""
        if not self.on_cuda:
            return {}
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            seconds_a_call(runner.step, PROFILED, self.device)
        total, count = Counter[str](), 0
        for event in profiled.events():
            if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
                total[event.name[:100]] += event.time_range.elapsed_us() / 1000 / PROFILED
                count += 1
        return {"kernels": count / PROFILED, "kernels ms": sum(total.values()), "slowest": dict(total.most_common(12))}

    def painting(self, network: nst.VGG, size: int) -> dict:
        """Return a painting's seconds and loss. It is saved as a PNG."""
        quality = "draft" if self.options.quick else "good"
        began = time.perf_counter()
        result = nst.transfer(*pictures(size), network=network, quality=quality, progress=False)
        seconds = time.perf_counter() - began
        path = nst.save_image(result.image, self.options.out / f"{self.name}-{size}.png", recipe=result.recipe)
        found = {"size": size, "quality": quality, "seconds": seconds, "steps": len(result.history)}
        return found | {"loss": result.loss, "used": result.engine, "file": path.name}

    def series(self, network: nst.VGG, size: int, title: str, makers: dict, plain: Callable, baseline: Any) -> None:
        """Measure several runners, and add a row for each; `plain` makes the one that is right in plain float32."""
        with tf32(False):
            right = self.attempt(f"{title}, plain float32", lambda: plain().evaluate())
        for name, make in makers.items():
            row: dict = {"network": network.name, "size": size, "name": name}
            self.report["engines" if baseline else "losses"].append(row)
            self.measure(f"{title}, {name}", row, make, right, baseline)
            if baseline and self.report["peaks"]:
                row |= roofline(network, size, CHOICES.get(name, PLAIN).formats, self.report["peaks"])
            for part in ("evaluate", "step"):
                if {"roofline ms", f"{part} ms"} <= row.keys():
                    row[f"{part} roofline"] = row["roofline ms"] / row[f"{part} ms"]
            if {"kernels ms", "step ms"} <= row.keys():
                row["gaps"] = max(0.0, 1 - row["kernels ms"] / row["step ms"])

    def measure(self, title: str, row: dict, make: Callable, right: Any, baseline: Any) -> None:
        """Add the measurements of one runner to a row."""
        if runner := self.attempt(title, self.make, make, row):
            for measure, *args in ((self.correctness, right), (self.speed, baseline), (self.kernels,)):
                row |= self.attempt(f"{title}, {measure.__name__}", measure, runner, *args)

    def run(self) -> None:
        """Make all measurements, the most important ones first."""
        sizes, trained = self.options.sizes, self.report["trained"]
        self.report["peaks"] = self.attempt("peaks", peaks, self.device)
        networks = {}
        for name in ("vgg19", "vgg16"):
            networks[name], trained[name] = network_for(name, self.device)
        for size in (sizes[:1] if self.options.quick else PAINTINGS) if trained["vgg19"] else ():
            found = self.attempt(f"painting, {size} px", self.painting, networks["vgg19"], size)
            self.report["paintings"] += [found] if found else []
        for size in sizes:
            images = tuple(resize(image, size, size) for image in pictures(size))
            for network in networks.values():
                title, run = f"{network.name}, {size} px", partial(Toolkit, network, images)
                baseline = self.attempt(f"{title}, baseline", Tutorial, network, images)
                makers = {name: partial(run, choice, **COMPARED) for name, choice in CHOICES.items()}
                first = {"plain loop": partial(Tutorial, network, images)}
                self.series(network, size, title, first | makers, makers["plain"], baseline)
            if size == sizes[0]:  # "wasserstein" stands for the default settings
                for name in STYLE_LOSSES:
                    own = partial(Toolkit, networks["vgg19"], images, style_loss=name)
                    plain = partial(own, PLAIN)
                    self.series(networks["vgg19"], size, "style loss", {name: partial(own, None)}, plain, None)
        self.report["seconds"] = time.perf_counter() - self.began


COLUMNS = {  # {key of a row: format}
    "network": "", "size": "", "name": "", "quality": "", "used": "", "seconds": ".2f", "loss off by": ".1e",
    "1 - cosine": ".1e", "evaluate ms": ".2f", "evaluate ×": ".2f", "evaluate roofline": ".0%", "step ms": ".2f",
    "step ×": ".2f", "step roofline": ".0%", "graph": "", "kernels": ".0f", "gaps": ".0%", "peak GB": ".2f",
    "reserved GB": ".2f", "VGG-19": "", "aim": "", "found": ".3g",
}  # fmt: skip


def table(rows: list[dict]) -> str:
    """Return a Markdown table of the columns that the rows have."""
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [
        [format(row[name], COLUMNS[name]) if row.get(name) is not None else "" for name in columns] for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *cells])


def aims(report: dict) -> str:
    """Return a Markdown table of what is aimed at, and what was found."""

    def found(size: int, key: str) -> list[float]:
        rows = [row for row in report["engines"] if (row["network"], row["size"]) == ("vgg19", size)]
        return [row[key] for row in rows if row["name"] in CHOICES and key in row]

    seconds = [one["seconds"] for one in report["paintings"] if (one["size"], one["quality"]) == (512, "good")]
    lines = [
        ("share of the roofline, step at 1024 px, H100", "0.6", max(found(1024, "step roofline"), default=None)),
        ("speed, step at 512 px, plain loop = 1", "4", max(found(512, "step ×"), default=None)),
        ("seconds of a good painting of 512 px", "2", min(seconds, default=None)),
    ]
    return table([{"VGG-19": text, "aim": aim, "found": number} for text, aim, number in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON and the paintings")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds for medians")
    parser.add_argument("--quick", action="store_true", help="a trial: one round, and a draft of the first size")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    options.out.mkdir(parents=True, exist_ok=True)
    measurements = Measurements(options)
    report = measurements.report
    try:
        measurements.run()
    finally:
        (options.out / f"{measurements.name}.json").write_text(json.dumps(report, indent=1))
    rates = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in report["peaks"].items())
    print(f"\n{report['card']}, torch {report['torch']}. Trained weights: {report['trained']}.")
    print(f"Peaks in TFLOP/s, bandwidth in TB/s: {rates}.")
    for text in (*(table(report[name]) for name in ("engines", "losses", "paintings")), aims(report)):
        print(f"\n{text}")
    print(f"\nFailed: {len(report['errors'])}. Left out: {', '.join(report['left out']) or 'nothing'}.")


if __name__ == "__main__":
    main()
