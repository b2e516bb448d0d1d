"""Data supplied beside the DICOM files of a source: records and their MAP, reports, lesion points, manual kinds."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmvae.case import PointMM
from mmvae.errors import InputError
from mmvae.identity.text import without_identifiers
from mmvae.ingest.assign import read_override
from mmvae.ingest.table.map import Map, read_map, read_table
from mmvae.ingest.table.rows import Row


@dataclass(frozen=True)
class Annotations:
    """Records, reports, lesion points and manual kinds, looked up by a study's PatientID or AccessionNumber.

    Args:
        mapping: Explains the columns of the records; None if there are no records.
        rows: Rows of the records, by key.
        points: Lesion points in LPS mm, by case_id, PatientID or AccessionNumber.
        override: Kind by F or series, set by hand.
        reports: A folder of <AccessionNumber or PatientID>.txt, or the text file of the only study.
    """

    mapping: Map | None = None
    rows: Mapping[str, Row] = field(default_factory=dict)
    points: Mapping[str, Sequence[PointMM]] = field(default_factory=dict)
    override: Mapping[str, str] = field(default_factory=dict)
    reports: Path | None = None

    def row_of(self, names: Sequence[str], identifiers: Sequence[str]) -> Row | None:
        """The row of a study, found by its names; identifiers from its headers are removed from the cells."""
        row = next((self.rows[name] for name in names if name in self.rows), None)
        if row is None or self.mapping is None:
            return None
        return {
            column: without_identifiers(cell or "", identifiers)
            for column, cell in row.items()
            if column != self.mapping.key
        }

    def reports_of(self, names: Sequence[str]) -> Iterator[tuple[Path, str]]:
        """Each report of a study, found by its names, and the path under which the vault stores it."""
        if self.reports is None:
            return
        if self.reports.is_file():
            yield self.reports, self.reports.name
            return
        for name in names:
            if "/" not in name and name not in (".", ".."):
                path = self.reports / f"{name}.txt"
                if path.is_file():
                    yield path, f"reports/{path.name}"


def read_annotations(
    records: Path | None, reports: Path | None, lesions: Path | None, map_path: Path | None, override: Path | None
) -> Annotations:  # fmt: skip
    """The annotations that these files hold; each may be None.

    Args:
        records: Table of records.
        reports: Folder of reports, or one report.
        lesions: Table of lesion points.
        map_path: MAP of the records' columns; without it the first column is the key and every other one a field.
        override: Table of kinds.

    Raises:
        InputError: naming the argument, the line and the column that does not fit.
    """
    mapping = read_map(map_path) if map_path else None
    rows: dict[str, Row] = {}
    if records is not None:
        table = read_table(records, mapping.columns() if mapping else set(), "records")
        # Without a MAP the first column is the key, and every other column is a field of the record.
        mapping = mapping or Map(next(iter(table[0])), every_other_column=True)
        rows = _by_key(records, table, mapping.key)
    return Annotations(mapping, rows, _points(lesions), read_override(override), reports)


def _by_key(path: Path, table: Sequence[Row], key: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line, row in enumerate(table, 2):
        name = (row.get(key) or "").strip()
        if name in rows:
            raise InputError(
                f"{path.name} line {line}: {key} is also on an earlier line; expected one row per case",
                "records",
            )
        rows[name] = row
    return rows


def _points(path: Path | None) -> dict[str, list[PointMM]]:
    """Lesion points in LPS mm by case_id, PatientID or AccessionNumber."""
    if path is None:
        return {}
    points: dict[str, list[PointMM]] = defaultdict(list)
    for line, row in enumerate(read_table(path, {"case", "x_mm", "y_mm", "z_mm"}, "lesions"), 2):
        try:
            x, y, z = (float(row[axis]) for axis in ("x_mm", "y_mm", "z_mm"))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path.name} line {line}: expected three numbers x_mm, y_mm, z_mm (LPS)", "lesions"
            ) from error
        if not np.isfinite((x, y, z)).all():
            raise InputError(
                f"{path.name} line {line}: expected three finite numbers x_mm, y_mm, z_mm (LPS)", "lesions"
            )
        points[(row["case"] or "").strip()].append((x, y, z))
    return points
