"""docs/new-environment.md, followed to the letter."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "new-environment.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the page's environment in it."""
    folder = tmp_path_factory.mktemp("page") / "checkout"
    ignore = shutil.ignore_patterns(".*", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=ignore)
    (header,), (python,) = blocks("c"), blocks("python")
    (folder / "ocean_c" / "catch.h").write_text(header)
    (folder / "envs" / "catch.py").write_text(python)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    words[:1] = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest"]}[words[0]]
    environment = os.environ | {"COLUMNS": "80", "LINES": "24"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment)


def test_every_command_of_the_page_works(checkout):
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        done = run(command, checkout)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if command.startswith("pytest"):
            assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout
        if "--stop-score" in command:
            assert re.search(r"^ok: score (0\.9|1\.0)", done.stdout, re.MULTILINE), done.stdout


def test_the_pages_code_has_the_projects_style(checkout):
    formatter = Path(sys.executable).with_name("clang-format")
    style = [formatter, "--dry-run", "-Werror", f"--style=file:{ROOT / '.clang-format'}"]
    subprocess.run([*style, checkout / "ocean_c" / "catch.h"], check=True)
    ruff = [sys.executable, "-m", "ruff"]
    settings = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        subprocess.run([*ruff, *command, *settings, checkout / "envs" / "catch.py"], check=True)


def test_what_the_page_names_is_there():
    for test in re.findall(r"`(test_\w+)`", PAGE):
        assert f"def {test}(" in (ROOT / "tests" / "test_environments.py").read_text(), test
    for path in re.findall(r"`(tests/\w+\.py)`", PAGE):
        assert (ROOT / path).exists(), path
