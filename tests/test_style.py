"""ruff, clang-format, promised sizes, and commands of the README that other tools rely on."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check(*command: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff():
    check("ruff", "check", ".")
    check("ruff", "format", "--check", ".")


def test_clang_format():
    formatter = Path(sys.executable).with_name("clang-format")
    done = subprocess.run(
        [formatter, "--dry-run", "--Werror", *(ROOT / "ocean_c").glob("*.h")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_trainer_and_the_tuner_are_one_short_file_each():
    assert len((ROOT / "cleanpuffer.py").read_text().splitlines()) < 1000
    assert len((ROOT / "sweep.py").read_text().splitlines()) < 700


def test_readme_has_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python cleanpuffer.py --env pong" in readme
    assert "pip install -e '.[test]' && pytest" in readme
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text()


def test_names_in_the_documents_exist():
    """What stands in backticks there: functions, classes, settings; a method is one of its class."""
    files = [file for pattern in ("*.py", "*/*.py", "*/*.h") for file in ROOT.glob(pattern)]
    code = "\n".join(file.read_text() for file in files)
    for page in ("algorithm", "policies", "variants"):
        text = re.sub(r"```.*?```", "", (ROOT / "docs" / f"{page}.md").read_text(), flags=re.DOTALL)
        for name in re.findall(r"`([A-Za-z_][\w./]*\w)`", text):
            kind, _, member = name.partition(".")
            if re.search(rf"^class {kind}\b", code, re.MULTILINE) and member:
                body = re.search(rf"^class {kind}\b.*?(?=^\S)", code, re.DOTALL | re.MULTILINE)[0]
                assert re.search(rf"(def |self\.){member}\b", body), (page, name)
            else:
                file = (ROOT / name).exists() or list(ROOT.glob(f"*/{name}"))
                words = not name.endswith((".py", ".h")) and name.split(".")
                assert file or (words and all(re.search(rf"\b{x}\b", code) for x in words)), (page, name)


def test_documents_are_whole():
    """Links lead somewhere, no placeholder is left."""
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "benchmarks" / "RESULTS.md"):
        text = page.read_text()
        assert "_TABLE" not in text, page
        for link in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text):
            assert (page.parent / (link[0] or link[1])).exists(), (page, link)
