"""Imports point one way: flows -> tasks -> nncift_core; store and config know nothing of the method."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[str]:
    """Absolute module names that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{a.name}" for a in node.names} | {str(node.module)}
    return found


def violations(package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Imports of `forbidden` packages below `package`."""
    files = sorted((ROOT / package).rglob("*.py")) or [ROOT / f"{package}.py"]
    assert all(f.is_file() for f in files), package
    return [
        f"{f.relative_to(ROOT)}: {name}"
        for f in files
        for name in sorted(imports(f))
        if any(name == x or name.startswith(x + ".") for x in forbidden)
    ]


def test_core_imports_neither_tasks_nor_flows_nor_prefect() -> None:
    assert violations("nncift_core", ("tasks", "flows", "prefect", "typer")) == []


def test_tasks_do_not_import_flows() -> None:
    assert violations("tasks", ("flows", "typer")) == []


def test_store_and_config_know_nothing_of_the_method() -> None:
    method = tuple(
        f"nncift_core.{room}"
        for room in (
            "datasets", "encoders", "language_models", "influence", "estimator", "selection", "finetune",
            "evaluation", "report", "pipeline", "gradients", "forward", "forward_features", "output_layer",
            "bm25", "studies", "attribution", "forecast",
        )
    )  # fmt: skip
    assert violations("nncift_core/store", method) == []
    sections = {f"config_{name}" for name in ("sections", "influence", "training", "sweep", "toml")}
    modules = {path.stem for path in (ROOT / "nncift_core").glob("config*.py")}
    assert modules > sections
    for module in modules:
        assert violations(f"nncift_core/{module}", method + ("nncift_core.store",)) == []


def test_method_modules_do_not_know_where_files_lie() -> None:
    rooms = (
        "influence", "estimator", "selection", "datasets", "finetune", "evaluation", "gradients", "studies",
        "forward", "forward_features", "output_layer",
    )  # fmt: skip
    for room in rooms:
        assert violations(f"nncift_core/{room}", ("nncift_core.store", "nncift_core.pipeline")) == []


def test_the_check_itself_finds_a_wrong_import() -> None:
    assert any("tasks.progress" in v for v in violations("flows", ("tasks",)))


def test_core_imports_without_prefect_duckdb_and_datasets() -> None:
    """Kernels, training and prediction run on machines that lack them."""
    code = """
import sys
for name in ("prefect", "duckdb", "datasets"):
    sys.modules[name] = None
import nncift_core.estimator, nncift_core.selection, nncift_core.influence.registry
import nncift_core.encoders, nncift_core.language_models, nncift_core.config
import nncift_core.finetune, nncift_core.evaluation, nncift_core.finetune.loop, nncift_core.studies, peft
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr
