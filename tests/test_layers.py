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
            "evaluation", "report", "pipeline", "gradients", "forward", "bm25",
        )
    )  # fmt: skip
    assert violations("nncift_core/store", method) == []
    for module in ("config", "config_sections", "config_toml"):
        assert violations(f"nncift_core/{module}", method + ("nncift_core.store",)) == []


def test_method_modules_do_not_know_where_files_lie() -> None:
    for room in ("influence", "estimator", "selection", "datasets", "finetune", "evaluation", "gradients"):
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
import nncift_core.finetune, nncift_core.evaluation, nncift_core.finetune.loop, peft
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr
