"""Soak test: `python -m benchmarks.soak [minutes]` paints in a playground and moves a slider every second.

Prints the memory of the process each minute, and its growth from minute 10 to the end. Default: 30 minutes.
"""

import sys
import time

import psutil

from nst_helpers.widgets import Playground


def main(minutes: float = 30) -> None:
    playground = Playground(size=256, steps=2000)
    playground.wait(block=True)
    playground.start()
    process, began, megabytes = psutil.Process(), time.monotonic(), []
    while (elapsed := time.monotonic() - began) < 60 * minutes:
        playground.panel.stylized.value = 0.3 + 0.4 * (int(elapsed) % 2)
        if playground.painter.state in ("done", "stopped"):
            playground.start()
        if elapsed >= 60 * len(megabytes):
            megabytes.append(process.memory_info().rss / 1e6)
            kept = len(playground.painter.history.snapshots), len(playground.painter.history.records)
            print(
                f"minute {len(megabytes) - 1}: {megabytes[-1]:.0f} MB, step {playground.steps_made}, kept {kept}",
                flush=True,
            )
        time.sleep(1)
    if playground.painter.error is not None:
        raise playground.painter.error
    playground.close()
    if len(megabytes) > 10:
        print(f"from minute 10 to {len(megabytes) - 1}: {megabytes[-1] - megabytes[10]:+.0f} MB")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
