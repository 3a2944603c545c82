"""What metadata cannot say: a built package remembers the commit that it was built from."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

VERSION = runpy.run_path(str(Path(__file__).parent / "qra" / "version.py"))


def remember_commit(package: Path) -> None:
    package.mkdir(parents=True, exist_ok=True)
    (package / VERSION["BUILT_FROM"]).write_text(VERSION["commit"]() or "")


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            remember_commit(Path(self.build_lib, "qra"))


class SourceArchive(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        remember_commit(Path(base_dir, "qra"))


setup(cmdclass={"build_py": BuildPackage, "sdist": SourceArchive})
