"""``pull``: an export from where ``push`` has put it, verified."""

from __future__ import annotations

from typing import Any

ARGUMENTS = [
    ("address", None, "a folder, or an address such as s3://bucket/name or hf://user/name"),
    ("out", None, "folder for the export"),
]


def pull(address: str, out: str, storage_options: dict[str, Any] | None = None) -> None:
    """Fetch an export and verify each file by its SHA-256; nothing of it is run.

    Args:
        address: Where ``lit-iba push`` has put it.
        out: Folder for the export.
        storage_options: What the address's fsspec driver takes, such as credentials.
    """
    from lit_iba.export import pull_export

    description = pull_export(address, out, storage_options)
    print(f"wrote {out}; verified: {', '.join(description['files'])}")
