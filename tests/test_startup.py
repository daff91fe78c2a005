"""What startup.py leaves out of torch's import is there when it is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START = """
import sys, startup
startup.import_torch()
import cleanpuffer, torch
late = ("torch.export", "torch._meta_registrations")
assert not any(name in sys.modules for name in late)
"""
USES = {
    "compile": "assert torch.compile(lambda x: x + 1, backend='aot_eager')(torch.ones(3))[0] == 2",
    "export": "assert torch.export.export(torch.nn.Linear(2, 1), (torch.ones(1, 2),))",
    "import of prims": "import torch._prims",
    "import of dynamo": "import torch._dynamo",
    "import of export": "import torch.export.dynamic_shapes",
    "meta": "import torch._meta_registrations\nx = torch.empty(1, 3, 8, 8, device='meta')\n"
    "assert torch.nn.functional.conv2d(x, x).shape == (1, 1, 1, 1)",
}


@pytest.mark.parametrize("use", USES)
def test_late_parts_of_torch(use):
    script = f"{START}{USES[use]}\nassert all(name in sys.modules for name in late)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_training_asks_for_none_of_them(tmp_path):
    script = f"{START}code = cleanpuffer.main(['--env', 'bandit', '--total-timesteps', '2048', '--run-dir', "
    script += (
        f"{str(tmp_path / 'run')!r}])\nassert code == 0 and not any(name in sys.modules for name in late)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
