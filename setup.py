"""Carries the repository's scenarios, profiles and captures into the built package; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {
    "scenarios": ["*.toml", "*.xml", "*.json"],
    "profiles": ["*.toml"],
    "captures": ["*.kvtrace", "*.generator.toml", "*.requests.jsonl.gz", "*.tokens.jsonl.gz"],
}


class BuildWithShipped(build_py):
    """Copies the shipped files to ``kvsim/_shipped``; a checkout and an editable install read them where they lie."""

    def run(self) -> None:
        """Build the modules, and the shipped files beside them."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "kvsim" / "_shipped"
        shutil.rmtree(target, ignore_errors=True)
        for folder, patterns in SHIPPED.items():
            (target / folder).mkdir(parents=True)
            for file in sorted(found for pattern in patterns for found in Path(folder).glob(pattern)):
                shutil.copy2(file, target / folder)


setup(cmdclass={"build_py": BuildWithShipped})
