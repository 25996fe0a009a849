"""`python -m nst_helpers.demo`, as `make demo` runs it."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import printed

import nst_helpers as nst
from nst_helpers.files import weights


@pytest.mark.long
def test_the_demo(clone, vgg, tmp_path):
    """`python -m nst_helpers.demo` with the weights cached and nothing in reach."""
    (source,) = weights.SOURCES["vgg19"]
    cached = weights._cached(source)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    shutil.copy(cached, tmp_path / "hub" / "checkpoints" / cached.name)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "nst_helpers.demo"],
        cwd=clone,
        env={**os.environ, **nowhere, "TORCH_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = clone / "outputs"
    for name in ("quickstart.jpg", "quickstart_grid.jpg", "00_quickstart.ipynb"):
        assert str(outputs / name) in done.stdout
    assert re.search(r"with VGG-19, the original .+ CC BY 4\.0\)\. Steps: \d+ at 200 px, .+ at 512 px\.", done.stdout)
    assert "step/s" in done.stdout  # the progress bar moved
    assert re.search(r"step 20 \(200 px\): total [\d.]+, content [\d.]+, style [\d.]+", done.stdout)
    assert re.search(r"Everything took \d+ s\. Next, `make lab`", done.stdout)
    left = int(re.search(r"(\d+)% of the photograph's loss is left", done.stdout)[1])
    assert left < 15
    executed = nbformat.read(outputs / "00_quickstart.ipynb", as_version=4)
    assert printed(executed, "stderr") == ""
    assert "step/s" not in json.dumps(executed)
    assert max(nst.load_image(outputs / "quickstart.jpg", size=None).shape[2:]) == 512
