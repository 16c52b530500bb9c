"""The project's pages: whatever Markdown a reader is sent to."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for pattern in ("*.md", "data/*.md", "docs/**/*.md", "lit_iba/*/README.md", "notebooks/*.md")
    for path in sorted(ROOT.glob(pattern))
]
