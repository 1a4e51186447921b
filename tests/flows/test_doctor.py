"""`nncift doctor`: real checks of this machine, and of machines that lack something; no network."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
from conftest import Project, free_port
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.doctor import Check, check, machine, packages, requirements, show
from flows.doctor.core import Probe, examine
from nncift_core.errors import IntegrityError, UserError


def only(checks: list[Check]) -> Check:
    (found,) = checks
    return found


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """Metadata of an installed package, as pip leaves them."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {r}" for r in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the module path, and no checkout around the doctor."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(requirements, "CHECKOUT", tmp_path / "no-checkout")
    return folder


def test_every_check_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The model hub is a port where nobody listens.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}, restore_defaults={PREFECT_API_URL}):
        checks = check(tmp_path / "ws")
    found = {c.name: c for c in checks}
    needed = ["python", "packages", "device cpu", "disk", "workspace"]
    needed += ["builtin encoder", "builtin language model"]
    assert {c.name for c in checks if c.needed} == set(needed)
    assert all(found[name].status == "ok" for name in needed), checks
    assert {"test tools", "memory", "prefect server", "model hub", "hub token", "browser", "git"} <= set(
        found
    )
    assert all((c.mend == "") == (c.status == "ok") for c in checks)
    assert found["prefect server"].mend == "nncift server start"
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_table_and_exits_1_for_a_needed_lack(offline_project: Project) -> None:
    p = offline_project
    p.env |= {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}", "HF_TOKEN": "hf_verysecret"}
    done = p.call("doctor", "--workspace", str(p.workspace))
    assert max(map(len, done.stdout.split("└")[0].splitlines())) <= 80
    assert "nncift server start" in done.stdout
    assert "hf_verysecret" not in done.stdout + done.stderr
    done = p.call("doctor", "--workspace", "job.toml", "--json", check=1)
    found = {c["name"]: c for c in json.loads(done.stdout)}
    assert (found["workspace"]["status"], found["workspace"]["needed"]) == ("problem", True)
    assert found["workspace"]["found"] == "job.toml: is a file, not a folder"
    assert found["hub token"] == {
        "name": "hub token",
        "status": "ok",
        "found": "set (HF_TOKEN)",
        "mend": "",
        "needed": False,
    }


def test_absent_and_wrong_packages_each_have_their_command(site: Path) -> None:
    distribution(site, "too_new", "0.151.0")
    distribution(site, "fine", "2.0+cpu")
    requires = ("too_new<0.151", "fine>=1,<3", "no-such-package>=7", 'no-tool>=1; extra == "dev"')
    distribution(site, "nncift", "0.1.0", *requires, 'elsewhere; sys_platform == "no-system"')
    wrong, absent = packages.check_packages()
    assert (wrong.name, wrong.status) == ("package too_new", "problem")
    assert wrong.found == "0.151.0 is installed, <0.151 is wanted"
    assert wrong.mend == f"{sys.executable} -m pip install 'too_new<0.151'"
    assert (absent.name, absent.status, absent.found) == (
        "package no-such-package",
        "missing",
        "not installed",
    )
    assert wrong.needed and absent.needed
    tools = only(packages.check_test_tools())
    assert (tools.status, tools.needed) == ("missing", False)
    assert tools.mend.endswith("install 'no-tool>=1'")


def test_a_checkout_that_requires_more_than_was_installed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(site, "fine", "2.0")
    distribution(site, "nncift", "0.1.0", "fine>=1")
    assert [c.status for c in packages.check_packages()] == ["ok"]
    text = '[project]\nname = "nncift"\ndependencies = ["fine>=1", "newly-wanted"]\n'
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(requirements, "CHECKOUT", tmp_path)
    newly, stale = packages.check_packages()
    assert (newly.name, newly.status, newly.needed) == ("package newly-wanted", "missing", True)
    assert (stale.name, stale.status, stale.needed) == ("package nncift", "problem", False)
    assert stale.mend.endswith(f"pip install -e {tmp_path}")
    (tmp_path / "pyproject.toml").write_text(text.replace('"nncift"', '"other"'))
    assert [c.status for c in packages.check_packages()] == ["ok"]


def test_an_environment_without_pip_gets_a_command_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    command = requirements.install("fastapi<0.151")
    assert command == f"uv pip install --python {sys.executable} 'fastapi<0.151'"


def test_an_old_python() -> None:
    found = only(machine.check_python((3, 10, 4)))
    assert (found.status, found.needed) == ("problem", True)
    assert "3.10.4" in found.found and "3.11 or newer" in found.mend


def test_a_crash_is_a_finding() -> None:
    def crash() -> list[Check]:
        raise ZeroDivisionError("division by zero\nand more")

    found = only(examine(Probe("odd", crash, True)))
    assert (found.status, found.found, found.needed) == (
        "problem",
        "ZeroDivisionError: division by zero",
        True,
    )
    assert found.mend


def test_errors_that_name_their_mend_keep_it() -> None:
    def wrong() -> list[Check]:
        raise UserError("is full", file="disk", mend="Empty it.")

    def damaged() -> list[Check]:
        raise IntegrityError("the weights are damaged. Run: pip install x")

    found = only(examine(Probe("a", wrong, False)))
    assert (found.found, found.mend, found.needed) == ("disk: is full", "Empty it.", False)
    found = only(examine(Probe("b", damaged, True)))
    assert (found.found, found.mend) == ("the weights are damaged", "pip install x")


def test_silence_is_a_finding() -> None:
    forever = threading.Event()

    def wait() -> list[Check]:
        forever.wait()
        return []

    found = only(examine(Probe("drive", wait, False, seconds=0.05)))
    forever.set()
    assert (found.status, found.found, found.needed) == ("problem", "no answer within 0.05 s", False)


def test_a_module_that_cannot_be_imported_is_named_with_its_mend(site: Path) -> None:
    (site / "broken_module_a.py").write_text("import no_such_module_b.part\n")
    (site / "broken_module_c.py").write_text("raise OSError('libx.so: cannot open')\n")
    absent = only(examine(Probe("x", list, False, ("broken_module_a",))))
    assert absent.needed and absent.mend.endswith("install no_such_module_b")
    broken = only(examine(Probe("x", list, False, ("broken_module_c",))))
    assert broken.found == "cannot import broken_module_c: OSError: libx.so: cannot open"
    assert broken.mend.endswith("install --force-reinstall broken_module_c")
    torn = only(examine(Probe("x", list, False, ("prefect.no_such_part",))))
    assert "install --force-reinstall 'prefect" in torn.mend


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Gpu:
        name, total_memory = "Some GPU", 80 * 1024**3

    # No test machine has a GPU: what torch would say of two of them.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda name: Gpu)
    found = [(c.name, c.found) for c in machine.check_devices()]
    assert found[:2] == [("device cuda:0", "Some GPU, 80.0 GiB"), ("device cuda:1", "Some GPU, 80.0 GiB")]
    assert found[-1][0] == "device cpu"


def test_a_gpu_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    assert machine.idle_gpu(None, 0, driver) == []
    driver.write_text("NVRM version")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.idle_gpu("12.8", 1, driver) == []
    assert "--force-reinstall 'torch" in only(machine.idle_gpu(None, 0, driver)).mend
    assert only(machine.idle_gpu("12.8", 0, driver)).mend == "nvidia-smi"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = only(machine.idle_gpu("12.8", 0, driver))
    assert (found.status, found.needed, found.mend) == ("problem", False, "unset CUDA_VISIBLE_DEVICES")


def control_group(folder: Path, limit: str, current: int, inactive_file: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive_file}\n")


def test_memory_heeds_the_limits_of_control_groups(tmp_path: Path) -> None:
    root, own, mib = tmp_path / "cgroup", tmp_path / "own", 1024**2
    own.write_text("0::/user.slice/job\n")
    free = only(machine.check_memory(tmp_path / "none", own)).found
    control_group(root, "max", 0, 0)
    assert only(machine.check_memory(root, own)).found.split(",")[0] == free.split(",")[0]
    control_group(root / "user.slice", str(1024 * mib), 900 * mib, 388 * mib)
    control_group(root / "user.slice" / "job", "max", 0, 0)
    found = only(machine.check_memory(root, own))
    assert found.found == "1.0 GiB (a limit of its control group), 0.5 GiB available: little"
    assert (found.status, found.needed) == ("problem", False)
    # In a container the limit stands at the root, whatever the path says.
    control_group(root, str(512 * mib), 512 * mib, 256 * mib)
    own.write_text("0::/host/only\n")
    assert only(machine.check_memory(root, own)).found.endswith(", 0.2 GiB available: little")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(machine.check_disk(tmp_path / "a" / "b")).found.endswith(f" free at {tmp_path}")
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real._replace(free=700 * 1024**2))
    found = only(machine.check_disk(tmp_path))
    assert (found.status, found.needed) == ("problem", True)
    assert found.found == f"only 700 MiB free at {tmp_path}"


def test_a_folder_in_other_use_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    found = only(examine(Probe("workspace", lambda: machine.check_workspace(tmp_path), True)))
    assert (found.status, found.mend) == ("problem", "Choose an empty or new folder.")
    assert "no nncift workspace" in found.found


def test_the_table_fits_and_mends_can_be_copied_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"/a/{'long/' * 30}python -m pip install 'sentence-transformers>=6,<7' [red]x"
    checks = [
        Check("package sentence-transformers", "problem", f"{'x' * 200} \x1b[2J", command, True),
        Check("git", "missing", "not on PATH", "apt-get install -y git", False),
        Check("python", "ok", "3.11", "", True),
    ]
    monkeypatch.setenv("COLUMNS", "200")
    show(checks)
    shown = capsys.readouterr().out
    table, _, rest = shown.partition("┘")
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in shown and shown.count("x") > 200
    assert f"package sentence-transformers:\n    {command}\n" in rest
    assert "git:\n    apt-get install -y git\n" in rest
    assert "missing, optional" in table
    assert rest.splitlines()[-1] == "1 needed not ok"
    show(checks[1:])
    assert capsys.readouterr().out.splitlines()[-1] == "all that is needed is there"
