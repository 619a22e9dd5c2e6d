"""Numbers as the tables of studies have them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

Columns = Mapping[str, tuple[str, str]]  # heading: name of the number, form as in "{:.2f}"


def cells(rows: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Texts under their headings; a dash where a number is absent."""
    found = {
        heading: ["–" if pd.isna(value) else form.format(value) for value in rows[name]]
        for heading, (name, form) in columns.items()
    }
    return pd.DataFrame(found)
