"""The contract with the paths and components of notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from app.openapi.document import OpenAPIDocument

FRAGMENT = Path(__file__).with_name("openapi.yaml")


def contract_with_notes() -> OpenAPIDocument:
    """What `openapi.yaml` would be if the fragment were part of it."""
    document = OpenAPIDocument.load().document
    fragment: dict[str, Any] = yaml.safe_load(FRAGMENT.read_text("utf-8"))
    document["paths"] |= fragment["paths"]
    for kind, components in fragment["components"].items():
        document["components"][kind] |= components
    return OpenAPIDocument(msgspec.json.encode(document))
