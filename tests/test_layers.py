"""Who may import whom (docs/architecture.md), read from the source of every module, lazy imports inside functions included.
Imports under `if TYPE_CHECKING:` are for readers only and do not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import write_extension

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PROJECT = Path(__file__).parent.parent

MAY_IMPORT = {
    "webui.errors": (),
    "webui.bootstrap": (),
    "webui.settings": ("webui.errors",),
    "webui.artifacts": ("webui.errors",),
    "webui.faces": ("webui.errors",),
    "webui.pictures": ("webui.errors",),
    "webui.weights": ("webui.errors",),
    "webui.devices": ("webui.weights.cache", "webui.errors"),
    "webui.imaging": ("webui.devices", "webui.weights", "webui.faces", "webui.pictures", "webui.errors"),
    "webui.jobs": ("webui.errors", "webui.artifacts", "webui.devices"),
    "webui.plugin_api": (
        "webui.jobs",
        "webui.devices",
        "webui.weights",
        "webui.faces",
        "webui.pictures",
        "webui.artifacts",
        "webui.imaging.restore",
        "webui.imaging.upscale",
        "webui.errors",
    ),
    "webui.plugin_loader": ("webui.plugin_api", "webui.jobs.types", "webui.errors"),
    "webui.builtin": ("webui.plugin_api", "webui.devices", "webui.imaging", "webui.weights"),
    "webui.cli": ("webui.settings", "webui.jobs", "webui.artifacts", "webui.errors"),
    "webui.remote": ("webui.jobs.types", "webui.jobs.validation", "webui.artifacts", "webui.settings", "webui.errors"),
    "webui.api": (
        "webui.jobs",
        "webui.plugin_loader",
        "webui.settings",
        "webui.artifacts",
        "webui.weights",
        "webui.imaging.resize",
        "webui.errors",
    ),
    "webui.ui": (
        "webui.jobs",
        "webui.plugin_loader",
        "webui.settings",
        "webui.artifacts",
        "webui.pictures",
        "webui.weights",
        "webui.devices",
        "webui.imaging.plans",
        "webui.errors",
    ),
    "app": ("webui",),
}
"""Module or package -> what of ours it may import besides itself. An extension may import webui.plugin_api and itself."""

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "librosa", "cv2", "dlib", "scipy", "pandas", "skimage", "dbos")

TORCHLESS = (
    "webui.weights",
    "webui.imaging.requests",
    "webui.imaging.prompt",
    "webui.imaging.infotext",
    "webui.imaging.styles",
    "webui.imaging.plans",
    "webui.imaging.samplers",
)
"""What the page and a lite installation use of Stable Diffusion: heavy libraries in functions only, also in what these import."""


@dataclass(frozen=True)
class Import:
    """`module` imports `name`; lazily when it does so inside a function."""

    module: str
    name: str
    line: int
    lazy: bool

    def is_of(self, *packages: str) -> bool:
        return any(self.name == package or self.name.startswith(f"{package}.") for package in packages)


def modules(root: Path) -> dict[str, ast.Module]:
    """Every module of the product by its dotted name."""
    files = [root / "app.py", *root.glob("webui/**/*.py"), *root.glob("extensions/**/*.py")]
    found = {}
    for file in files:
        if file.is_file():
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imports(module: str, tree: ast.AST, known: dict[str, ast.Module], lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(module, ast.Module([other], []), known, lazy)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            for alias in node.names:
                # `from webui import cli` names a module, `from webui.cli import run` something in one.
                inner = f"{node.module}.{alias.name}"
                yield Import(module, inner if inner in known else str(node.module), node.lineno, lazy)
        else:
            inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports(module, node, known, inside)


def violations(root: Path) -> list[str]:
    """One line per import that breaks a rule."""
    known = modules(root)
    all_imports = [found for name, tree in known.items() for found in imports(name, tree, known)]
    broken = [*_between_layers(all_imports), *_of_engines(all_imports), *_of_libraries(all_imports)]
    broken += _heavy_at_start(root, known, all_imports)
    return broken + [line for name, tree in known.items() for line in _builds_services(name, tree)]


def _between_layers(all_imports: list[Import]) -> Iterator[str]:
    for found in all_imports:
        if found.is_of("webui", "extensions", "app"):
            home, allowed = _rule(found.module)
            if home is None:
                yield f"{found.module} has no rule in MAY_IMPORT"
            elif not found.is_of(home, *allowed):
                yield f"{found.module}:{found.line} imports {found.name}"


def _rule(module: str) -> tuple[str | None, tuple[str, ...]]:
    """The layer a module belongs to, and what that layer may import."""
    parts = module.split(".")
    if parts[0] == "extensions" and len(parts) > 1:
        return ".".join(parts[:2]), ("webui.plugin_api",)
    homes = [home for home in MAY_IMPORT if module == home or module.startswith(f"{home}.")]
    return (homes[0], MAY_IMPORT[homes[0]]) if homes else (None, ())


def _of_engines(all_imports: list[Import]) -> Iterator[str]:
    """extensions/*/engines/NAME/ is known to itself and to engines/choice.py, which makes it."""
    for found in all_imports:
        home = found.name.split(".")[:4]
        if len(home) < 4 or home[2] != "engines" or home[3] in ("base", "choice"):
            continue
        if not found.module.startswith(".".join(home)) and found.module != ".".join([*home[:3], "choice"]):
            yield f"{found.module}:{found.line} imports {found.name}: engines are made by choice.py"


def _of_libraries(all_imports: list[Import]) -> Iterator[str]:
    for found in all_imports:
        parts = found.module.split(".")
        page = found.module == "app" or parts[:2] == ["webui", "ui"] or parts[-1] == "tab" or "tabs" in parts
        if found.is_of("gradio", "gradio_client") and not page:
            yield f"{found.module}:{found.line} imports {found.name}: Gradio belongs to the page"
        if found.is_of("fastapi", "starlette") and not (page or parts[:2] == ["webui", "api"]):
            yield f"{found.module}:{found.line} imports {found.name}: HTTP belongs to webui.api"
        if found.is_of("imageio_ffmpeg", "ffmpeg") and parts[-1] not in ("encode", "audio"):
            yield f"{found.module}:{found.line} imports {found.name}: ffmpeg belongs to encode.py and audio.py"
        if found.is_of("dbos") and found.module != "webui.jobs.workflow":
            yield f"{found.module}:{found.line} imports {found.name}: DBOS belongs to webui.jobs.workflow"
        if found.is_of("sqlalchemy") and found.module != "webui.jobs.store":
            yield f"{found.module}:{found.line} imports {found.name}: tables belong to webui.jobs.store"
        if found.is_of("ray") and found.module != "webui.jobs.cluster":
            yield f"{found.module}:{found.line} imports {found.name}: Ray belongs to webui.jobs.cluster"


def _heavy_at_start(root: Path, known: dict[str, ast.Module], all_imports: list[Import]) -> Iterator[str]:
    """Heavy libraries that are imported before the first job: at the top of a module that the start reaches, or may reach."""
    torchless = [name for name in known if any(name == one or name.startswith(f"{one}.") for one in TORCHLESS)]
    reached, waiting = set(), [*_start_modules(root, known), *torchless]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        for found in all_imports:
            if found.module == module and not found.lazy:
                if found.is_of(*HEAVY):
                    yield f"{module}:{found.line} imports {found.name} at start-up"
                waiting += [name for name in (found.name, found.name.rpartition(".")[0]) if name in known]


def _start_modules(root: Path, known: dict[str, ast.Module]) -> Iterator[str]:
    yield "app"
    yield from (name for name in known if name.startswith("webui.ui"))
    for manifest in (*root.glob("extensions/*/plugin.toml"), *root.glob("webui/*/plugin.toml")):
        entries = tomllib.loads(manifest.read_text(encoding="utf-8"))
        named = [*entries.get("tabs", {}).values(), *(entries[key] for key in ("jobs",) if key in entries)]
        yield from (str(reference).partition(":")[0] for reference in named)


def _builds_services(module: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "JobService" and module != "app":
            yield f"{module}:{node.lineno} builds a service: only app.py does"


def test_every_import_keeps_to_its_layer():
    assert len(modules(PROJECT)) > 20
    assert violations(PROJECT) == []


def test_the_rules_name_only_layers_that_have_a_rule():
    for home, allowed in MAY_IMPORT.items():
        assert not [name for name in allowed if name not in MAY_IMPORT and not _rule(name)[0] and name != "webui"], home


BREACHES = [
    ("webui/errors.py", "import webui.settings", "webui.errors:1 imports webui.settings"),
    ("webui/settings.py", "from webui import artifacts", "webui.settings:1 imports webui"),
    ("webui/artifacts.py", "from webui.jobs.types import Job", "webui.artifacts:1 imports webui.jobs.types"),
    ("webui/faces.py", "import webui.settings", "webui.faces:1"),
    ("webui/pictures.py", "import webui.faces", "webui.pictures:1"),
    ("webui/weights/cache.py", "import webui.jobs", "webui.weights.cache:1"),
    ("webui/weights/catalog.py", "import webui.settings", "webui.weights.catalog:1"),
    ("webui/weights/detect.py", "import webui.imaging.load", "webui.weights.detect:1"),
    ("webui/weights/files.py", "import torch", "webui.weights.files:1 imports torch at start-up"),
    ("webui/imaging/prompt.py", "import transformers", "webui.imaging.prompt:1 imports transformers at start-up"),
    ("webui/imaging/generate.py", "import webui.jobs.types", "webui.imaging.generate:1"),
    ("webui/imaging/generate.py", "import webui.artifacts", "webui.imaging.generate:1"),
    ("webui/imaging/load.py", "import webui.plugin_api", "webui.imaging.load:1"),
    ("webui/imaging/load.py", "import gradio", "Gradio belongs"),
    ("webui/jobs/service.py", "def f():\n    import webui.imaging.generate", "webui.jobs.service:2"),
    ("webui/jobs/worker.py", "import webui.weights.fetch", "webui.jobs.worker:1"),
    ("webui/plugin_api.py", "import webui.ui", "webui.plugin_api:1"),
    ("webui/plugin_api.py", "import webui.imaging.generate", "webui.plugin_api:1"),
    ("webui/plugin_loader.py", "import webui.jobs.service", "webui.plugin_loader:1"),
    ("webui/builtin/images.py", "import webui.jobs.service", "webui.builtin.images:1"),
    ("webui/builtin/images.py", "import webui.artifacts", "webui.builtin.images:1"),
    ("webui/builtin/images.py", "import webui.settings", "webui.builtin.images:1"),
    ("webui/builtin/images.py", "import gradio", "Gradio belongs"),
    ("webui/builtin/kinds.py", "import torch", "webui.builtin.kinds:1 imports torch at start-up"),
    ("webui/builtin/kinds.py", "import webui.imaging.load", "webui.imaging.load:1 imports torch at start-up"),
    ("webui/imaging/generate.py", "import webui.builtin.draw", "webui.imaging.generate:1"),
    ("webui/plugin_loader.py", "import webui.builtin.kinds", "webui.plugin_loader:1"),
    ("webui/cli.py", "import webui.ui.shell", "webui.cli:1"),
    ("webui/api/jobs.py", "import webui.ui.shell", "webui.api.jobs:1"),
    ("webui/ui/shell.py", "import extensions.sadtalker.tab", "webui.ui.shell:1"),
    ("webui/ui/shell.py", "import webui.imaging", "webui.ui.shell:1"),
    ("webui/bootstrap.py", "import webui.settings", "webui.bootstrap:1"),
    ("webui/novelty.py", "import webui.errors", "no rule"),
    ("extensions/one/jobs.py", "from webui.errors import MediaError", "extensions.one.jobs:1 imports webui.errors"),
    ("extensions/one/jobs.py", "import extensions.two.jobs", "extensions.one.jobs:1"),
    ("extensions/one/pipeline.py", "import extensions.one.engines.fast.engine", "engines are made by choice.py"),
    ("extensions/one/engines/slow/engine.py", "import extensions.one.engines.fast.draw", "engines are made by choice.py"),
    ("app.py", "import extensions.one.jobs", "app:1"),
    ("webui/jobs/service.py", "import gradio", "Gradio belongs"),
    ("extensions/one/jobs.py", "import gradio as gr", "Gradio belongs"),
    ("webui/imaging/generate.py", "import fastapi", "HTTP belongs"),
    ("extensions/one/pipeline.py", "import imageio_ffmpeg", "ffmpeg belongs"),
    ("webui/jobs/service.py", "import ray", "Ray belongs"),
    ("webui/jobs/worker.py", "import dbos", "DBOS belongs"),
    ("webui/jobs/keeping.py", "import sqlalchemy", "tables belong"),
    ("app.py", "import torch", "app:1 imports torch at start-up"),
    ("webui/ui/fields.py", "import cv2", "webui.ui.fields:1 imports cv2 at start-up"),
    ("extensions/one/jobs.py", "from scipy import signal", "extensions.one.jobs:1 imports scipy at start-up"),
    ("webui/ui/shell.py", "service = JobService([])", "webui.ui.shell:1 builds a service"),
]


@pytest.mark.parametrize(("path", "code", "expected"), BREACHES)
def test_each_rule_notices_its_breach(tmp_path: Path, path: str, code: str, expected: str):
    write_extension(tmp_path / "extensions", "one", 'jobs = "extensions.one.jobs:KINDS"\n', jobs="KINDS = ()\n")
    write_extension(tmp_path / "webui", "builtin", 'jobs = "webui.builtin.kinds:KINDS"\n', kinds="KINDS = ()\n")
    (tmp_path / "webui" / "imaging").mkdir()
    (tmp_path / "webui" / "imaging" / "load.py").write_text("import torch\n")
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    assert any(expected in line for line in violations(tmp_path)), violations(tmp_path)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("webui/ui/shell.py", "import gradio"),
        ("extensions/one/tab.py", "import gradio"),
        ("extensions/one/tabs/first.py", "import gradio"),
        ("extensions/one/engines/choice.py", "import extensions.one.engines.fast.engine"),
        ("extensions/one/engines/fast/engine.py", "import extensions.one.engines.fast.draw"),
        ("extensions/one/audio.py", "import imageio_ffmpeg"),
        ("webui/jobs/cluster.py", "import ray"),
        ("extensions/one/pipeline.py", "import cv2"),
        ("webui/imaging/load.py", "import torch\nfrom webui.weights import files"),
        ("webui/weights/files.py", "def read():\n    import torch"),
        ("webui/builtin/images.py", "from webui.weights.catalog import Catalog"),
        ("extensions/one/jobs.py", "def handler():\n    import cv2"),
        ("webui/errors.py", "if TYPE_CHECKING:\n    import webui.settings"),
        ("app.py", "service = JobService([])"),
    ],
)
def test_what_is_allowed_is_not_called_a_breach(tmp_path: Path, path: str, code: str):
    write_extension(tmp_path / "extensions", "one", 'jobs = "extensions.one.jobs:KINDS"\n', jobs="KINDS = ()\n")
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    assert violations(tmp_path) == []
