"""Compiling on demand: when it happens, that it is safe, and what a user reads when it cannot be done."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ANSWER = "int answer(void);"


@pytest.fixture
def fresh(checkout: Path) -> ModuleType:
    """build.py of the copied checkout, beside a library answer.h, the least there is to compile."""
    (checkout / "ocean_c" / "answer.h").write_text("static int answer(void) { return 1; }\n")
    spec = importlib.util.spec_from_file_location("build_copy", checkout / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_build(build: ModuleType, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "build.py", *arguments]
    return subprocess.run(
        command, cwd=build.ROOT, env=os.environ | environment, capture_output=True, text=True
    )


def insert(header: Path, function: str, line: str) -> int:
    """Puts a line of C at the start of a function's body; returns its number."""
    lines = header.read_text().splitlines()
    number = next(i for i, text in enumerate(lines) if f" {function}(" in text and text.endswith("{")) + 1
    header.write_text("\n".join([*lines[:number], line, *lines[number:]]) + "\n")
    return number + 1


def test_compiles_on_first_use_and_after_a_change(fresh):
    assert not fresh.COMPILED.exists()
    assert fresh.load("answer", ANSWER).lib.answer() == 1
    (fresh.SOURCES / "answer.h").write_text("static int answer(void) { return 2; }\n")
    assert fresh.load("answer", ANSWER).lib.answer() == 2


def test_nothing_changed_nothing_compiled(fresh):
    path = fresh.compile_module("bandit")
    made = path.stat()
    assert fresh.compile_module("bandit") == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert fresh.compile_module("bandit", force=True) == path
    assert path.stat().st_mtime_ns > made.st_mtime_ns


@pytest.mark.parametrize("file", ["ocean_c/bandit.h", "ocean_c/vec.h", "ocean_c/draw.h", "build.py"])
def test_every_source_counts(fresh, file):
    before = fresh.compile_module("bandit")
    with open(fresh.ROOT / file, "a") as source:
        source.write("\n\n")
    assert fresh.compile_module("bandit") != before


def test_compiler_and_flags_count(fresh, monkeypatch):
    (fresh.SOURCES / "answer.h").write_text("static int answer(void) { return ANSWER; }\n")
    compiler = sysconfig.get_config_var("CC")
    for answer in (3, 4):
        monkeypatch.setenv("CC", f"{compiler} -DANSWER={answer}")
        assert fresh.load("answer", ANSWER).lib.answer() == answer


def test_debug_build_stands_beside_the_fast_one(fresh):
    fast, debug = fresh.compile_module("bandit"), fresh.compile_module("bandit", debug=True)
    assert fast != debug
    assert b"__asan_" not in fast.read_bytes()
    assert b"__asan_" in debug.read_bytes() and b"__ubsan_" in debug.read_bytes()


def test_two_processes_at_once(fresh, monkeypatch, tmp_path):
    """Both get the module; the second waits for the first instead of compiling, too."""
    slow, calls = tmp_path / "slow", tmp_path / "calls"
    compiler = sysconfig.get_config_var("CC")
    slow.write_text(f'#!/bin/sh\necho called >> "{calls}"\nsleep 0.5\nexec {compiler} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CC", str(slow))
    script = "import build; print(build.load('squared').lib.vec_state_size())"
    command = [sys.executable, "-c", script]
    both = [subprocess.Popen(command, cwd=fresh.ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sizes = [process.communicate(timeout=60)[0] for process in both]
    assert calls.read_text() == "called\n"
    assert [process.returncode for process in both] == [0, 0]
    assert sizes[0] == sizes[1] and int(sizes[0]) > 0
    left = sorted(path.suffix for path in fresh.COMPILED.iterdir())
    assert left == [".lock", ".so"]  # one module, and nothing temporary


def test_command_line(fresh):
    done = run_build(fresh, "bandit", "squared")
    assert done.returncode == 0, done.stderr
    paths = [fresh.ROOT / line.split(": ")[1] for line in done.stdout.splitlines()]
    assert [path.name.split("_")[0] for path in paths] == ["bandit", "squared"]
    assert all(path.is_file() for path in paths)


def test_command_line_compiles_everything_without_names(fresh):
    for header in fresh.SOURCES.glob("*.h"):
        if header.name not in (*fresh.SHARED, *fresh.LIBRARIES, "bandit.h", "squared.h"):
            header.unlink()
    done = run_build(fresh)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["bandit", "squared"]


# What cannot be compiled: a first line that says why, and no traceback.


def first_line(fresh: ModuleType, name: str = "bandit") -> str:
    with pytest.raises(fresh.BuildError) as error:
        fresh.compile_module(name)
    return str(error.value).splitlines()[0]


def test_no_such_environment(fresh):
    done = run_build(fresh, "nosuch")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "no environment 'nosuch'" in done.stderr
    assert not done.stdout


def test_no_compiler(fresh):
    done = run_build(fresh, "bandit", CC="/nonexistent/cc")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no C compiler: '/nonexistent/cc'" in done.stderr and "install gcc" in done.stderr


def test_compiler_that_is_no_command(fresh, monkeypatch):
    monkeypatch.setenv("CC", '"gcc')
    assert "CC" in first_line(fresh)


@pytest.mark.parametrize("blank", ["", " "])
def test_blank_compiler_is_none_given(fresh, monkeypatch, blank):
    monkeypatch.setenv("CC", blank)
    assert fresh.load("answer", ANSWER).lib.answer() == 1


def test_no_python_headers(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    line = first_line(fresh)
    assert f"{tmp_path}/Python.h is missing" in line and "python3-dev" in line


def test_folder_that_cannot_be_written(fresh):
    fresh.COMPILED.write_text("a file where the folder should be")
    assert str(fresh.COMPILED) in first_line(fresh) and "cannot write" in first_line(fresh)


def test_compiled_modules_serve_where_there_is_no_compiler(fresh, monkeypatch, tmp_path):
    path = fresh.compile_module("bandit")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fresh.compile_module("bandit") == path


def test_errors_are_the_compilers(fresh):
    number = insert(fresh.SOURCES / "bandit.h", "bandit_step", "    nonsense;")
    with pytest.raises(fresh.BuildError) as error:
        fresh.compile_module("bandit")
    first, *rest = str(error.value).splitlines()
    assert first == "ocean_c/bandit.h does not compile"
    assert any(f"bandit.h:{number}:" in line and "nonsense" in line for line in rest)
    assert run_build(fresh, "bandit").returncode == 2


def test_warnings_are_errors(fresh):
    insert(fresh.SOURCES / "bandit.h", "bandit_step", "    int unused;")
    with pytest.raises(fresh.BuildError, match=r"unused variable .*unused"):
        fresh.compile_module("bandit")


@pytest.mark.parametrize("struct", ["Config", "Log"])
def test_header_without_its_structs(fresh, struct):
    header = fresh.SOURCES / "bandit.h"
    header.write_text(header.read_text().replace(f"typedef struct Bandit{struct} ", "typedef struct Other "))
    line = first_line(fresh)
    assert "ocean_c/bandit.h" in line and struct in line and "squared.h" in line


@pytest.mark.parametrize("knob", ["    int arms arms;", "    int arms[LENGTH];"])
def test_config_that_cannot_be_declared(fresh, knob):
    header = fresh.SOURCES / "bandit.h"
    header.write_text(header.read_text().replace("    int arms;", knob))
    assert "ocean_c/bandit.h" in first_line(fresh)
