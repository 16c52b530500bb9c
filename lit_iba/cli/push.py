"""``push``: an export to a folder, a bucket or the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

ARGUMENTS = [
    ("folder", None, "folder that lit-iba export wrote"),
    ("address", None, "a folder, or an address such as s3://bucket/name or hf://user/name"),
]


def push(folder: str, address: str, storage_options: dict[str, Any] | None = None) -> None:
    """Copy an export to a folder, or to an address that fsspec can write to.

    Args:
        folder: Folder that ``lit-iba export`` wrote.
        address: Where to.
        storage_options: What the address's fsspec driver takes, such as credentials.
    """
    from lit_iba.export import push_export

    names = push_export(folder, address, storage_options)
    print(f"wrote {', '.join(names)} to {address}")
