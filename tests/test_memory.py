import ctypes
import subprocess
import sys

import pytest

from qra.memory import keep_memory

FAULTS = """
import resource
from qra.memory import keep_memory
keep_memory()
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(bytearray(b"1") * 2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_memory_that_was_freed_is_used_again_without_the_kernel():
    faults = {}
    for words in (FAULTS, FAULTS.replace("\nkeep_memory()", "")):
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
        faults[words] = int(done.stdout)
    assert faults[FAULTS] < 100 < 4000 < max(faults.values())


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("it was looked for"))
    keep_memory()
