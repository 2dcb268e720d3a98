"""For mkdocs: links to files outside of docs/ become names of files in a checkout."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for every page before it is rendered."""
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}`)", markdown)
