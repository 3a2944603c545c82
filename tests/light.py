"""A process that uses modules of ground level, which start in no time because they need neither torch nor Lightning."""

import subprocess
import sys
from pathlib import Path

PACKAGE = f"""
import sys, types
package = sys.modules["qra"] = types.ModuleType("qra")
package.__path__ = [{str(Path(__file__).parents[1] / "qra")!r}]
"""


def start(script, *arguments):
    """Start a script; what it prints is to be read as text."""
    command = [sys.executable, "-c", PACKAGE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
