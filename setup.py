"""What pyproject.toml cannot say: the configs travel in the package as its recipes."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    """Copies configs/ beside the modules; an editable install reads it where it stands."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            recipes = Path(self.build_lib) / "lit_iba" / "recipes"
            shutil.rmtree(recipes, ignore_errors=True)
            shutil.copytree("configs", recipes)


setup(cmdclass={"build_py": WithRecipes})
