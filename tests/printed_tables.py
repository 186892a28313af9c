"""Tables that rich drew, read back."""

import re

_BORDER = re.compile("[│┃|]")


def read_table(text: str) -> dict[str, dict[str, str]]:
    """Row -> column -> cell, both by what is written; rows are called by their first cell."""
    lines = [_BORDER.split(line)[1:-1] for line in text.splitlines() if _BORDER.search(line)]
    (_, *columns), *rows = ([cell.strip() for cell in line] for line in lines)
    return {name: dict(zip(columns, cells, strict=True)) for name, *cells in rows}
