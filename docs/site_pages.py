"""Pages of the site whose text stands elsewhere in the repository: the README, the rooms' READMEs,
the changelog, the notebooks with their outputs, and the reference of all public names.
"""

from __future__ import annotations

import importlib
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "data/README.md": "data.md",
    "notebooks/README.md": "notebooks/index.md",
    **{
        f"notebooks/{path.name}": f"notebooks/{path.stem}.md"
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    },
    **{
        f"lit_iba/{room}/README.md": f"papers/{room}.md"
        for room in ("iba", "input_iba", "varsal", "activity")
    },
}
ROOMS = (
    *("lit_iba", "lit_iba.classifier", "lit_iba.iba", "lit_iba.input_iba", "lit_iba.varsal"),
    *("lit_iba.activity", "lit_iba.baselines", "lit_iba.metrics", "lit_iba.evaluation"),
    *("lit_iba.data", "lit_iba.training", "lit_iba.report", "lit_iba.export", "lit_iba.text"),
    "lit_iba.view",
)
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = moved(of_notebook(text) if source.endswith(".ipynb") else text, source, target)
        files.append(File.generated(config, target, content=text))
    seen: set[tuple[str, str]] = set()
    for room in ROOMS:
        text = reference(room, seen)
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages in docs/ that lead out of it."""
    source = f"docs/{page.file.src_uri}"
    return moved(markdown, source, page.file.src_uri) if (ROOT / source).is_file() else markdown


def of_notebook(text: str) -> str:
    """A notebook as Markdown: its texts, its code, and what that gave."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            kind = next(
                k for k in ("image/jpeg", "image/png", "text/html", "text/plain") if k in data
            )
            content = "".join(data[kind])
            if kind.startswith("image"):
                parts.append(f"![output](data:{kind};base64,{content.replace(chr(10), '')})")
            else:
                parts.append(
                    content if kind == "text/html" else f"```text\n{content.rstrip()}\n```"
                )
    return "\n\n".join(parts) + "\n"


def moved(text: str, source: str, target: str) -> str:
    """A page's text with links that lead to the same files from its new place; where a file is not
    part of the site, its path remains as text.
    """

    def link(match: re.Match[str]) -> str:
        before, address, anchor, after = match[1], match[2], match[3] or "", match[4]
        if ":" in address:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
        page = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return f"]{{title='{path}'}}"
        return f"{before}{posixpath.relpath(page, posixpath.dirname(target) or '.')}{anchor}{after}"

    return LINK.sub(link, text)


def reference(room: str, seen: set[tuple[str, str]]) -> str:
    """Every public name of a room that no room before it has, from its docstring."""
    module = importlib.import_module(room)
    parts = [f"# {room}\n\n{(module.__doc__ or '').strip()}\n"]
    for name in module.__all__:
        found = getattr(module, name)
        home = getattr(found, "__module__", "")
        if home.startswith("lit_iba") and (home, name) not in seen:
            seen.add((home, name))
            parts.append(f"::: {home}.{name}\n    options: {{heading: '{name}'}}\n")
    return "\n".join(parts)
