"""Memory does not grow with the images that were decoded: neither that of the process nor that of its workers."""

import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image

from qra.data import StreamedDataModule

pytestmark = pytest.mark.slow

FILES, EARLY, LIMIT = 20_000, 1_000, 100 * 2**20


def resident(process):
    """Bytes of memory that a process has of its own or shares."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_20_000_files_take_no_more_memory_than_1_000(tmp_path):
    Image.effect_noise((150, 120), 60).save(tmp_path / "image.jpg", quality=90)
    content = (tmp_path / "image.jpg").read_bytes()
    for part, count in (("train", FILES // 10), ("val", 1)):
        for label in range(10):
            folder = tmp_path / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:06}.jpg").write_bytes(content)
    data = StreamedDataModule(str(tmp_path), size=64, batch_size=50, val_size=0, workers=2)
    data.setup("fit")
    memory = []
    for number, _ in enumerate(data.train_dataloader(), 1):
        if number in (EARLY // 50, FILES // 50 - 5):  # at the very end workers may have gone
            processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
            memory.append({process: resident(process) for process in processes})
    early, late = memory
    assert len(early) == 3
    grown = {process: late[process] - early[process] for process in early}
    assert max(grown.values()) < LIMIT, grown
