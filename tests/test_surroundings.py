"""The surroundings of a call: settings of torch and other libraries, processes, threads, standard output."""

import ast
import contextlib
import copy
import inspect
import io
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg

import nst_helpers as nst
from nst_helpers import engine
from nst_helpers.files import surroundings
from nst_helpers.settings import CHOICES
from nst_helpers.widgets.painter import Painter

SETTINGS = {"sizes": (48, 64), "steps": (3, 4), "progress": False, "device": "cpu"}
LOADING = "content, style = (nst.load_image(f'data/{name}.jpg', 64) for name in ('content/hopper', 'styles/night'))"


@contextlib.contextmanager
def setting(get, put, value):
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def deterministic(**options):
    torch.use_deterministic_algorithms(True, **options)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def default_dtype(dtype):
    return setting(torch.get_default_dtype, torch.set_default_dtype, dtype)


def precisions():
    return [setting.fp32_precision for setting in surroundings._settings()]


def product_precision(precision):
    return setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, precision)


MODES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: setting(torch.is_grad_enabled, torch.set_grad_enabled, False),
    "inference_mode": torch.inference_mode,
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default dtype float16": lambda: default_dtype(torch.float16),
    "a default device": lambda: setting(torch.get_default_device, torch.set_default_device, "meta"),
    "a device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "deterministic, with warnings": lambda: deterministic(warn_only=True),
    "products in bfloat16": lambda: product_precision("medium"),
    "products in TF32": lambda: product_precision("high"),
    "NumPy's errors": lambda: np.errstate(all="raise"),
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


@pytest.fixture
def pictures(picture):
    return picture(48, 64), picture(64, 60, seed=1)


@pytest.fixture
def mask():
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., :40] = 1
    return mask


def equal(found, expected):
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(equal(found[key], expected[key]) for key in found)
    return found.dtype == expected.dtype and torch.equal(found, expected)


class TestModes:
    """The same bits inside and outside, and the mode is the caller's again afterwards."""

    @every_mode
    @pytest.mark.parametrize("engine", ["winograd", "direct", "plain"])
    def test_transfer(self, pictures, vgg, mode, engine):
        settings = {**SETTINGS, "network": vgg, "engine": engine}
        expected = nst.transfer(*pictures, **settings)
        with mode():
            found = nst.transfer(*pictures, **settings)
        assert equal(found.image, expected.image)
        assert (found.loss, found.engine) == (expected.loss, expected.engine)
        assert torch.get_default_dtype() == torch.float32

    @every_mode
    def test_everything_made_inside(self, pictures, mask, mode):
        """Also the network, the region and the style; every number is drawn there."""

        def paint():
            network = nst.load_vgg("vgg19", "average", device="cpu")
            region = nst.Region(mask, [nst.Style(pictures[1], scale=0.8), pictures[1].flip(3)])
            run = nst.StyleTransfer(
                pictures[0], region, network=network, sizes=(64,), steps=3, color="luminance_oklab", tv_weight=0.1,
                style_loss="sliced_wasserstein", optimizer="adam", ema_decay=0.5, balance=0.4, start="noise",
            )  # fmt: skip
            records = list(run)
            return {
                "weights": network.conv1_1.weight,
                "record": records[-1].image,
                "best": run.best,
                "average": run.average,
                "score": torch.tensor(run.score(run.best), dtype=torch.float64, device="cpu"),
            }

        expected = paint()
        with mode():
            found = paint()
            assert equal(found, expected)

    @every_mode
    def test_saved_styles(self, pictures, vgg, mode, tmp_path):
        options = {"sizes": (64,), "style_loss": "nearest"}
        expected = nst.save_style(None, pictures[1], vgg, **options)
        with mode():
            nst.save_style(tmp_path / "a.safetensors", pictures[1], vgg, **options)
            found = nst.save_style(None, pictures[1], vgg, **options)
            loaded = nst.load_style(tmp_path / "a.safetensors")
        assert equal(found.statistics, expected.statistics)
        painting = nst.transfer(pictures[0], loaded, **SETTINGS, network=vgg, style_loss="nearest", engine="plain")
        assert painting.image.isfinite().all()

    @every_mode
    @pytest.mark.parametrize("method", ["symmetric", "pca", "cholesky", "histogram"])
    def test_recolor(self, pictures, mode, method):
        expected = nst.recolor(*pictures, method)
        with mode():
            found = nst.recolor(*pictures, method)
        assert equal(found, expected)

    @every_mode
    def test_masks(self, pictures, vgg, mask, mode):
        def masks():
            found = [*nst.find_regions(pictures[0], 3), *nst.find_regions(pictures[0], 2, network=vgg)]
            return dict(enumerate([*found, nst.feathered(mask, 3)]))

        expected = masks()
        with mode():
            found = masks()
            assert equal(found, expected)

    @every_mode
    def test_features(self, pictures, vgg, mode):
        expected = nst.get_features(pictures[0], vgg, ["relu1_1", "conv4_2"])
        with mode():
            found = nst.get_features(pictures[0], vgg, ["relu1_1", "conv4_2"])
        assert equal(found, expected)

    def test_features_have_a_gradient_if_the_caller_wants_one(self, pictures, vgg):
        def features():
            return nst.get_features(pictures[0].clone().requires_grad_(), vgg, ["relu1_1"])["relu1_1"]

        assert features().requires_grad
        with torch.autocast("cpu"):
            assert features().requires_grad
        with torch.no_grad():
            assert not features().requires_grad
        with torch.inference_mode():
            assert features().is_inference()

    def test_they_are_restored_after_an_error(self, pictures, vgg):
        with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"), product_precision("medium"):
            before = precisions()
            with pytest.raises(ValueError, match="expected a tensor"):
                nst.transfer(pictures[0], "a.jpg", **SETTINGS, network=vgg)
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.empty(0).device.type == "meta"
            assert precisions() == before
            assert not torch.is_grad_enabled()

    @pytest.mark.parametrize("style_loss", CHOICES["style_loss"])
    def test_pictures_and_networks_from_inference_mode(self, pictures, mask, vgg, style_loss):
        settings = {**SETTINGS, "style_loss": style_loss, "engine": "plain", "sizes": (64,), "steps": 3}
        expected = nst.transfer(pictures[0], nst.Region(mask, pictures[1]), **settings, network=vgg, start=pictures[0])
        with torch.inference_mode():
            content, style, inside = (image.clone() for image in (*pictures, mask))
            region, network = nst.Region(inside, style), copy.deepcopy(vgg)
        found = nst.transfer(content, region, **settings, network=network, start=content)
        assert equal(found.image, expected.image)
        run = nst.StyleTransfer(content, style, network=network, sizes=(64,), device="cpu")
        assert run.evaluate(content, run.settings).comparable.isfinite()

    def test_the_playground_paints_as_outside(self, pictures, vgg):
        """Its thread has its own modes, but the default dtype belongs to the process."""
        images = []
        for mode in (contextlib.nullcontext(), default_dtype(torch.float64)):
            with mode:
                painter = Painter(*pictures, network=vgg)
                painter.paint((64,), 4, "content")
                painter.wait(60)
                images.append(painter.run.image)
                painter.close()
        assert equal(*images)

    def test_no_other_thread_notices(self, pictures, vgg, monkeypatch):
        """Not even for a moment: nothing but the precision of products is changed for the whole process."""
        for name in ("set_default_dtype", "use_deterministic_algorithms", "set_default_device", "manual_seed"):
            monkeypatch.setattr(torch, name, lambda *args, name=name, **options: pytest.fail(name))
        with torch.no_grad():
            nst.transfer(*pictures, **SETTINGS, network=vgg)

    def test_products_are_in_full_precision_until_the_last_thread_is_through(self):
        inside, leave, seen = threading.Event(), threading.Event(), []

        @surroundings.isolated
        def wait():
            inside.set()
            leave.wait(60)
            seen.extend(precisions())

        with product_precision("medium"):
            before = precisions()
            thread = threading.Thread(target=wait)
            thread.start()
            inside.wait(60)
            surroundings.isolated(lambda: None)()
            leave.set()
            thread.join(60)
            assert precisions() == before
            assert set(before) - set(surroundings.FULL)
        assert set(seen) <= set(surroundings.FULL)

    @pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="since torch 2.9")
    def test_an_inherited_precision_stays_inherited(self, monkeypatch):
        monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
        surroundings.isolated(lambda: None)()
        monkeypatch.setattr(torch.backends, "fp32_precision", "ieee")
        assert set(precisions()) <= set(surroundings.FULL)

    def test_the_engine_is_picked_as_outside(self, vgg):
        for mode in (torch.autocast("cpu"), torch.device("meta"), torch.inference_mode()):
            engine.winograd_failure.cache_clear()
            with mode:
                assert engine.pick_engine(vgg).kind == "winograd"

    def test_the_random_numbers_stay_the_callers(self, pictures):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        network = nst.load_vgg("vgg19", "l2", device="cpu")
        nst.transfer(*pictures, **SETTINGS, network=network, start="noise")
        assert torch.equal(torch.rand(4), expected)

    def test_a_bfloat16_picture_is_taken_as_float32(self, pictures, vgg):
        content, style = pictures
        settings = {**SETTINGS, "network": vgg}
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            found = nst.transfer(content.to(dtype), style.to(dtype), **settings, start=content.to(dtype))
            content32, style32 = content.to(dtype).float(), style.to(dtype).float()
            expected = nst.transfer(content32, style32, **settings, start=content32)
            assert equal(found.image, expected.image)
            one, other = (nst.save_style(None, image, vgg, sizes=(40,)) for image in (style.to(dtype), style32))
            assert equal(one.statistics, other.statistics)

    def test_a_class_keeps_its_documentation(self):
        assert "network" in inspect.signature(nst.StyleTransfer).parameters
        assert inspect.getdoc(nst.StyleTransfer.best).startswith("A copy of the image with the lowest loss")
        assert inspect.getsource(nst.StyleTransfer.step).startswith("    def step")

    def test_every_tensor_of_floats_names_its_dtype(self):
        """Otherwise it would have the default dtype, which the caller may have changed."""
        makers = {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "tensor", "zeros"}
        for path in (ROOT / "nst_helpers").rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{maker}" for maker in makers}:
                    assert "dtype" in {option.arg for option in node.keywords}, f"{path.name}:{node.lineno}"


class TestStandardOutput:
    @pytest.fixture(params=["None", "closed", "without isatty", "broken", "ASCII"])
    def output(self, request, monkeypatch):
        class Log:
            text = ""

            def write(self, text):
                self.text += text

        class Broken(io.StringIO):
            def write(self, text):
                raise OSError(5, "Input/output error")

        streams = {"None": None, "closed": io.StringIO(), "without isatty": Log(), "broken": Broken()}
        stream = streams.get(request.param, io.TextIOWrapper(io.BytesIO(), "ascii"))
        if request.param == "closed":
            stream.close()
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    @pytest.mark.parametrize("progress", [None, True, False])
    def test_a_run_does_not_need_it(self, output, pictures, vgg, progress):
        settings = {**SETTINGS, "network": vgg, "progress": progress, "report_every": 1}
        assert nst.transfer(*pictures, **settings).image.isfinite().all()
        assert getattr(output, "text", "") == ""

    @pytest.mark.parametrize("variable", ["TQDM_ASCII=x", "TQDM_BAR_FORMAT={oops}", "TQDM_WRITE_BYTES=1", "TQDM_GUI=1"])
    def test_nor_the_environments_idea_of_a_progress_bar(self, variable):
        source = "from nst_helpers.files.progress import progress_bar\nprogress_bar(True, total=2).update()"
        environment = os.environ | dict([variable.split("=")])
        subprocess.run([sys.executable, "-c", source], cwd=ROOT, env=environment, check=True, capture_output=True)


UGLY = {
        "image.origin": "lower", "image.interpolation": "nearest", "axes.grid": True, "font.size": 30,
        "figure.facecolor": "black", "lines.linewidth": 9, "xtick.labelsize": 30, "figure.dpi": 30,
        "figure.constrained_layout.use": True, "axes.prop_cycle": plt.cycler(color=["red"]),
    "font.sans-serif": ["DejaVu Serif"], "text.usetex": True,
}  # fmt: skip


class TestFigures:
    def test_they_do_not_depend_on_the_callers_style(self, pictures, make_run):
        run = make_run()
        list(run)
        map_ = pictures[0][0, 0]

        def figures():
            drawn = [
                nst.show_grid(*pictures, pictures[0]),
                nst.show_losses(run.history),
                nst.show_images([pictures[0], map_], ["a", "b"]),
            ]
            canvases = [FigureCanvasAgg(figure) for figure in drawn]
            for canvas in canvases:
                canvas.draw()
            return [np.asarray(canvas.buffer_rgba()) for canvas in canvases]

        with plt.style.context("default"):
            expected = figures()
        with plt.rc_context(UGLY):
            found = figures()
            assert plt.rcParams["image.origin"] == "lower"
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def python(source, cwd=ROOT, **options):
    """The output of a program in a new process, in which warnings are errors unless its source says otherwise."""
    source = f"import warnings\nwarnings.simplefilter('error')\n{textwrap.dedent(source)}"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=cwd, text=True, capture_output=True, timeout=300, **options
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.long
class TestNumba:
    """The engine "winograd" is an optional help: without it, a run paints with "direct", and says so once."""

    PAINT = f"""
        import nst_helpers as nst
        {LOADING}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                result = nst.transfer(content, style, sizes=(64,), steps=2, progress=False, device="cpu")
        print(result.engine)
        print(*(warning.message for warning in caught), sep="; ")
        print({{warning.filename for warning in caught}} <= {{"<string>"}})
        try:
            nst.transfer(content, style, sizes=(64,), steps=2, progress=False, device="cpu", engine="winograd")
        except ValueError as error:
            print(error)
    """
    BROKEN: ClassVar = {
        "no numba": ("import sys; sys.modules['numba'] = None", "import of numba halted"),
        "no llvmlite": ("import sys; sys.modules['llvmlite'] = None", "llvmlite"),
        "NumPy is too new": ("fake('numba', 'raise ImportError(\"Numba needs NumPy 2.0 or less\")')", "needs NumPy"),
        "a damaged library": ("fake('llvmlite', 'raise OSError(\"libllvmlite.so: file too short\")')", "too short"),
        "another numba": ("fake('numba', 'njit = None')", "ImportError"),
        "disabled": ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'", "NUMBA_DISABLE_JIT is set"),
    }
    FAKE = """
        def fake(name, source):
            import pathlib, sys, tempfile
            folder = tempfile.mkdtemp()
            pathlib.Path(folder, name + ".py").write_text(source)
            sys.path.insert(0, folder)
    """

    @pytest.mark.parametrize(("how", "why"), BROKEN.values(), ids=BROKEN)
    def test_where_it_fails(self, how, why):
        source = textwrap.dedent(self.FAKE) + how + "\n" + textwrap.dedent(self.PAINT)
        engine, warning, at_the_call, error = python(source)
        assert engine.startswith("direct")
        assert why in warning
        assert why in error
        assert warning.count(" numba, which fails here") == 1
        assert at_the_call == "True"
        assert error.startswith('engine="winograd" needs numba')

    @pytest.fixture
    def read_only(self, tmp_path):
        """A copy of the package that cannot be written to, and an environment without any other place for a cache."""
        for part in ("nst_helpers", "data"):
            shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        (tmp_path / "nst_helpers/engine/__pycache__").write_text("a file, so that not even root makes a folder here")
        (tmp_path / "file").write_text("")
        places = ("HOME", "XDG_CACHE_HOME", "IPYTHONDIR")
        environment = os.environ | dict.fromkeys(places, str(tmp_path / "file"))
        environment |= {"TORCH_HOME": os.path.dirname(torch.hub.get_dir()), "PYTHONDONTWRITEBYTECODE": "1"}
        return {"cwd": tmp_path, "env": {k: v for k, v in environment.items() if k != "NUMBA_CACHE_DIR"}}

    def test_without_a_place_for_its_cache(self, read_only):
        """The code is compiled in every process. The result is the same, so nothing is said."""
        engine, warnings, *_ = python(self.PAINT, **read_only)
        assert engine.startswith("winograd")
        assert warnings == ""
        read_only["env"]["NUMBA_CACHE_DIR"] = str(read_only["cwd"] / "file" / "cache")
        assert python(self.PAINT, **read_only)[:2] == [engine, ""]

    @pytest.mark.slow
    def test_with_a_damaged_or_a_full_cache(self, tmp_path):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        engine, *_ = python(self.PAINT, env=environment)
        files = [path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc")]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:20])
        assert python(self.PAINT, env=environment)[:2] == [engine, ""]
        shutil.rmtree(tmp_path)
        full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        assert python(full + textwrap.dedent(self.PAINT), env=environment)[:2] == [engine, ""]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    """OpenMP's threads do not survive a fork: without further ado, the child would wait for them forever."""

    @pytest.mark.parametrize(
        ("how", "before"),
        [
            ("process", "pass"),
            ("process", "nst.load_vgg(device='cpu')"),
            ("process", "torch.ones(1 << 22).mul(2)"),
            ("os.fork", "paint()"),
            ("pool", "paint()"),
        ],
    )
    def test_the_child_paints(self, before, how):
        start = {
            "process": "child = mp.get_context('fork').Process(target=paint); child.start(); child.join(60)\n"
            "print('exit', child.exitcode); child.kill()",
            "os.fork": "import os\nif not os.fork(): paint(); os._exit(0)\nprint('exit', os.wait()[1])",
            "pool": "with mp.get_context('fork').Pool(1) as pool: pool.apply_async(paint).get(60); print('exit', 0)",
        }[how]
        source = f"""
        import faulthandler
        import multiprocessing as mp
        import warnings
        import torch
        import nst_helpers as nst
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # is multi-threaded: Python 3.12
        def paint():
            faulthandler.dump_traceback_later(60, exit=True)
            {LOADING}
            nst.load_image("data/content/hopper.jpg", 512)  # large enough for torch to use several threads
            result = nst.transfer(content, style, sizes=(64,), steps=2, progress=False, device="cpu")
            print(result.loss, flush=True)
            faulthandler.cancel_dump_traceback_later()
        torch.set_num_threads(2)
        {before}
        """
        lines = python(textwrap.dedent(source) + start)
        assert lines[-1] == "exit 0"
        assert float(lines[-2]) > 0
