"""Nothing is written twice: what the toolkit defines, notebooks derive, assert, show and import, and never redefine."""

import ast
import operator
import re
from functools import cache

import make_notebooks
import nbformat
import pytest
from conftest import ROOT

import nst_helpers as nst

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What computes: to be met by an assertion somewhere in the course.
NUMERICAL = {
    "content_loss",
    "convert_weights",
    "deprocess",
    "feathered",
    "find_regions",
    "get_features",
    "gram_matrix",
    "relative_weights",
    "load_image",
    "preprocess",
    "receptive_fields",
    "recolor",
    "save_image",
    "style_loss",
    "total_loss",
    "total_variation_loss",
    "transfer",
    "StyleTransfer",
}
OTHER = {  # names, figures and choices; what they return is looked at, or used
    "Region",
    "Settings",
    "STYLE_WEIGHTS",
    "Style",
    "VGG",
    "WeightsError",
    "find_picture",
    "load_mask",
    "load_style",
    "load_transparent",
    "load_vgg",
    "offer_download",
    "presets",
    "save_animation",
    "save_style",
    "recipe_from_png",
    "show_grid",
    "show_images",
    "show_losses",
    "show_source",
    "to_pil",
}


@cache
def code(path):
    """Return the code cells of a notebook as text, without lines that are IPython's."""
    cells = nbformat.read(path, as_version=4).cells
    return [re.sub(r"^(\s*)[!%].*", r"\1pass", c.source, flags=re.M) for c in cells if c.cell_type == "code"]


def bound(tree):
    """Return the names that some code binds: assigns, defines, imports, or takes as arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.arg):
            yield node.arg


def is_assertion(node):
    called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1]
    return isinstance(node, ast.Assert) or called in ("assert_close", "gradcheck")


def test_every_public_name_is_sorted():
    assert set(nst.__all__) == NUMERICAL | OTHER


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_rebinds_a_public_name(path):
    setup, *sources = code(path)
    assert "import nst_helpers as nst" in setup
    for source in sources:
        assert not set(bound(ast.parse(source))) & {*nst.__all__, "nst"}


def test_every_numerical_helper_meets_an_assertion():
    met = set()
    for path in NOTEBOOKS:
        for source in code(path):
            tree = ast.parse(source)
            if any(is_assertion(node) for node in ast.walk(tree)):
                met |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not NUMERICAL - met


@pytest.mark.parametrize(
    ("what", "home"),
    [
        (r"0\.485|0\.456|0\.406|0\.229|0\.224|0\.225", "images.py"),  # ImageNet's mean and standard deviation
        (r"2, 2, 3, 3, 3|2, 2, 4, 4, 4|64, 128, 256, 512, 512", "vgg.py"),  # convolutions and channels by block
        (r"[\"']relu1_1[\"']: 0\.3", "gatys.py"),  # the style layers' weights
    ],
)
def test_tables_stand_in_one_place(what, home):
    modules = [*(ROOT / "nst_helpers").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    texts = {path.name: path.read_text("utf-8") for path in [*modules, *(ROOT / "notebooks").glob("*.py")]}
    texts |= {path.name: "\n".join(code(path)) for path in NOTEBOOKS}
    assert [name for name, text in texts.items() if re.search(what, text)] == [home]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_names_is_there(path):
    """In its text, too: names of the toolkit, and its files."""
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    for name in set(re.findall(r"\bnst\.(\w+(?:\.\w+)*)", text)):
        operator.attrgetter(name)(nst)
    for file in re.findall(r"\bnst_helpers/[\w/]+\.py", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "notebooks" / "checks.py"], ids=lambda path: path.stem)
def test_american_spelling_and_no_former_names(path):
    if path.suffix == ".py":
        text = path.read_text("utf-8")
    else:
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    spelling = r"colour|\bgrey|(?:normal|optim|minim|styl|recogn|summar)is(?:e|ing|ation)|towards|analogue|spoilt"
    former = r"settings_from_png|averaging=|carry=|level_step|\.iteration\b|\.story\b|\.summary\(|thin=|nst\.convert\("
    assert not re.findall(f"(?:{spelling}|{former})", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_colab_opens_them_on_a_gpu(path):
    metadata = nbformat.read(path, as_version=4).metadata
    assert make_notebooks.GPU.items() <= metadata.items()


def test_the_setup_is_the_same_everywhere():
    assert len({code(path)[0] for path in NOTEBOOKS}) == 1
