"""What a newcomer relies on beside the code: README, requirements, pictures, packaging."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib

import make_notebooks
import make_styles
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import nst_helpers as nst
from nst_helpers.schedule import QUALITIES, STARTS
from nst_helpers.settings import CHOICES

README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONTENT = sorted((ROOT / "data" / "content").glob("*.jpg"))
STYLES = sorted((ROOT / "data" / "styles").glob("*.jpg"))


class TestPictures:
    def test_there_are_enough(self):
        assert len(CONTENT) >= 4
        assert len(STYLES) >= 6

    @pytest.mark.parametrize("path", CONTENT + STYLES, ids=lambda path: path.stem)
    def test_each_is_small_clean_and_documented(self, path):
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert 256 <= max(picture.size) <= 1024
            assert not picture.getexif()
        assert path.stat().st_size <= (150_000 if path in CONTENT else 300_000)
        assert f"{path.parent.name}/{path.name}" in (ROOT / "data" / "README.md").read_text("utf-8")
        assert nst.load_image(path, 256).shape[1] == 3

    @pytest.mark.long
    def test_every_style_is_made_by_the_script(self, tmp_path, monkeypatch):
        assert sorted(style.__name__ for style in make_styles.STYLES) == [path.stem for path in STYLES]
        path = min(STYLES, key=lambda path: path.stat().st_size)
        made = next(style for style in make_styles.STYLES if style.__name__ == path.stem)(np.random.default_rng(7))
        committed = nst.load_image(path, size=None)[0].permute(1, 2, 0).numpy()
        assert np.abs(made.clip(0, 1) - committed).mean() < 0.03  # JPEG's loss

    def test_styles_differ(self):
        codes = [nst.load_image(path, 64).flatten() for path in STYLES]
        distances = [(a - b).abs().mean() for i, a in enumerate(codes) for b in codes[:i]]
        assert min(distances) > 0.1


class TestReadme:
    def test_relative_links_resolve(self):
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README) + re.findall(
            r'(?:src|href)="(?!https?:)([^"]+)"', README
        )
        assert links
        for link in links:
            assert (ROOT / link).exists(), link

    def test_result_picture_comes_first(self):
        assert re.match(r"# .+\n\n(!\[|<p|<img)", README)

    def test_badges_point_at_the_repository(self):
        assert make_notebooks.with_address(README) == README
        for notebook in (ROOT / "notebooks").glob("*.ipynb"):
            assert f"{make_notebooks.REPOSITORY}/blob/main/notebooks/{notebook.name}" in README

    def test_the_address_can_be_changed(self, tmp_path):
        """`make address` changes it everywhere, also twice, and nothing else."""
        files = [ROOT / "README.md", ROOT / "notebooks/make_notebooks.py", *(ROOT / "notebooks").glob("*.ipynb")]
        copies = [tmp_path / file.relative_to(ROOT) for file in files]
        (tmp_path / "notebooks").mkdir()
        for file, copy in zip(files, copies, strict=True):
            shutil.copy(file, copy)
        for address in ("someone/else.1", "3d/a-course", make_notebooks.REPOSITORY):
            make_notebooks.write_address(address, tmp_path)
            for copy in copies:
                found = set(re.findall(r"(?:github\.com/|REPOSITORY = \")([\w.-]+/[\w.-]+)", copy.read_text("utf-8")))
                assert address in found, copy
                assert make_notebooks.REPOSITORY not in found - {address}, copy
        assert all(copy.read_bytes() == file.read_bytes() for file, copy in zip(files, copies, strict=True))

    @pytest.mark.parametrize("address", ["/", "me/", "me/nst/tree", "https://github.com/me/nst"])
    def test_a_wrong_address_is_refused(self, tmp_path, address):
        with pytest.raises(SystemExit, match="expected OWNER and REPO"):
            make_notebooks.write_address(address, tmp_path)

    def test_every_make_target_it_names_exists(self):
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
        named = set(re.findall(r"(?:`|^)make (\w+)", README, flags=re.M))
        assert {"demo", "test", "lab", "lint"} <= named <= set(targets)

    def test_it_lists_every_choice(self):
        for name, choices in {**CHOICES, "start": STARTS, "quality": QUALITIES}.items():
            for choice in choices:
                assert f'"{choice}"' in README, (name, choice)

    @pytest.mark.long
    def test_the_python_it_shows_runs(self, tmp_path):
        """The first Python block, with fewer steps and into another folder."""
        source = re.search(r"```python\n(.+?)```", README, flags=re.S)[1]
        source = re.sub(r"size=\d+", "size=64", source)
        source = re.sub(r"steps=\d+", "steps=2", source).replace("painting.png", str(tmp_path / "painting.png"))
        subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True, capture_output=True)
        assert nst.load_image(tmp_path / "painting.png", size=None).shape[1] == 3


class TestDependencies:
    def requirements(self):
        lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
        return dict(re.fullmatch(r"(\S+>=\S+)\s+# (used by .+)", line).groups() for line in lines if line[0] != "#")

    def test_each_has_a_bound_and_a_user(self):
        for users in self.requirements().values():
            for path in re.findall(r"[\w/]+\.py", users):
                assert (ROOT / path).exists(), path

    def test_pyproject_has_the_same(self):
        extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
        assert sorted(PROJECT["dependencies"] + extras) == sorted(self.requirements())

    def test_what_the_package_imports_is_declared(self):
        known = {"PIL": "pillow", "IPython": "ipywidgets"}
        for_notebooks = PROJECT["optional-dependencies"]["notebooks"]
        for path in (ROOT / "nst_helpers").rglob("*.py"):
            in_notebooks = path.stem == "demo" or path.parent.name == "widgets"
            declared = PROJECT["dependencies"] + (for_notebooks if in_notebooks else [])
            declared += PROJECT["optional-dependencies"]["heic"] if path.stem == "decoding" else []
            for module in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text("utf-8"), flags=re.M):
                if module not in {*sys.stdlib_module_names, "nst_helpers"}:  # history.py writes code
                    name = known.get(module, module.replace("_", "-"))
                    assert any(line.startswith(f"{name}>=") for line in declared), (path.name, name)

    def test_conda_reads_the_same_list(self):
        assert "- -r requirements.txt" in (ROOT / "environment.yml").read_text("utf-8")

    @pytest.mark.long
    def test_pip_install(self, tmp_path):
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)
        script = "import nst_helpers; print(nst_helpers.__file__)"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(str(tmp_path))


class TestHouse:
    """The budget of lines, the order of imports, and a test file for each module, as CONTRIBUTING describes them."""

    PACKAGE = ROOT / "nst_helpers"
    MACHINERY = ("engine", "widgets", "files", "presets", "validate.py", "demo.py")
    FLOORS = (  # the course from the ground up: a chapter imports from those before it
        "validate", "files", "images", "vgg", "losses", "presets", "masks", "engine", "colors", "optimizers",
        "schedule", "styles", "settings", "provenance", "objective", "state", "transfer", "plots", "widgets", "demo",
    )  # fmt: skip

    def modules(self):
        return {path.relative_to(self.PACKAGE): path.read_text("utf-8") for path in self.PACKAGE.rglob("*.py")}

    def lines(self, text):
        return len(text.splitlines())

    def test_the_course_stays_small(self):
        course = {path: text for path, text in self.modules().items() if path.parts[0] not in self.MACHINERY}
        sizes = {str(path): self.lines(text) for path, text in course.items()}
        assert sum(sizes.values()) <= 3010
        for name, size in sizes.items():
            assert size <= (425 if name == "transfer.py" else 260), (name, size)

    def test_the_folder_fits_on_a_screen(self):
        entries = [path for path in self.PACKAGE.iterdir() if path.name != "__pycache__"]
        assert len(entries) <= 22, sorted(path.name for path in entries)

    def test_no_import_runs_back_up(self):
        for path, text in self.modules().items():
            if str(path) == "__init__.py":
                continue
            room = path.parts[0].removesuffix(".py")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.level == len(path.parts):
                    for name in [node.module] if node.module else [alias.name for alias in node.names]:
                        other = name.split(".")[0]
                        if other not in (room, "__version__"):
                            assert self.FLOORS.index(other) < self.FLOORS.index(room), f"{path} imports {other}"

    def test_each_module_has_a_test_file(self):
        """Its own, or for engine/, losses/, objective/ and presets/ that of the folder."""
        for path in self.modules():
            name = path.parts[0] if path.parts[0] in ("engine", "losses", "objective", "presets") else path.stem
            if name != "__init__":
                assert (ROOT / "tests" / f"test_{name}.py").exists(), path

    def test_the_docstring_is_a_map(self):
        for room in self.FLOORS:
            assert re.search(rf"\b{room}\b", nst.__doc__), room

    def test_layer_names_are_read_by_the_network_alone(self):
        """Geometry is asked of the network: then another VGG-like one costs one module."""
        for path, text in self.modules().items():
            if str(path) != "vgg.py":
                assert not re.search(r"layer\[\d|\[4\]\)|startswith\(\"(conv|relu|pool)|conv1_1\.", text), path


def test_there_is_one_version():
    assert re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text("utf-8"), flags=re.M)[1] == nst.__version__
    assert "version" in PROJECT["dynamic"]


def test_no_large_file_is_tracked():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert all((ROOT / file).stat().st_size < 1_000_000 for file in files if (ROOT / file).is_file())
