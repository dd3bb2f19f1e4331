"""What became of a cohort's cases: summary.json and summary.csv, right at any moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from SkullVAELib import NOTICE, __version__
from SkullVAELib.batch.cohort import SUMMARIES
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.files import as_json_text, file_sha256
from SkullVAELib.report.result_names import RESULTS

STATUS_WAITING, STATUS_DONE, STATUS_NO_DEFECT, STATUS_BAD_INPUT, STATUS_CRASHED = STATUSES = (
    "waiting",
    "done",
    "no defect",
    "bad input",
    "crashed",
)


@dataclass(frozen=True)
class CaseRow:
    """What became of a case.

    status: one of STATUSES; sentence: why, one line, empty for a case that is done; defects, volume_ml, thickness_mm
    (mean), rim_gap_mm, warnings: as in the case's report; seconds, peak_mib: of its process, peak_mib None where the
    system does not tell; made_from: see cohort.made_from; report_sha256: of the report that this row tells of.
    """

    case: str
    status: str = STATUS_WAITING
    sentence: str = ""
    defects: int | None = None
    volume_ml: float | None = None
    thickness_mm: float | None = None
    rim_gap_mm: float | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    peak_mib: int | None = None
    made_from: dict | None = None
    report_sha256: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the case has its results."""
        return self.status in (STATUS_DONE, STATUS_NO_DEFECT)

    @property
    def failed(self) -> bool:
        """Whether the case has ended without results."""
        return self.status in (STATUS_BAD_INPUT, STATUS_CRASHED)

    def with_report(self, folder: Path) -> CaseRow:
        """The row with the figures of the report in a case's folder. Raises OSError or ValueError without one."""
        path = folder / RESULTS[-1]
        report = json.loads(path.read_text(encoding="utf-8"))
        implant = report.get("implant") or {}
        return replace(
            self,
            defects=implant.get("defects", 0),
            volume_ml=implant.get("volume_ml"),
            thickness_mm=(implant.get("thickness_mm") or {}).get("mean"),
            rim_gap_mm=implant.get("rim_gap_mm"),
            warnings=tuple(report["warnings"]),
            report_sha256=file_sha256(path),
        )

    def stands(self, folder: Path, made_from: dict | None) -> bool:
        """Whether the case need not run again: its report is still the one this row tells of, made from the same."""
        if not self.finished or made_from is None or self.made_from != made_from:
            return False
        return self.tells_of(folder)

    def tells_of(self, folder: Path) -> bool:
        """Whether the report in a case's folder is the one of this row."""
        try:
            return file_sha256(folder / RESULTS[-1]) == self.report_sha256
        except OSError:
            return False


# The last two are for the next run, not for a spreadsheet.
_COLUMNS = tuple(field.name for field in fields(CaseRow))[:-2]


class CohortTable:
    """The rows of the cases in an output folder, in order, written whole at each change.

    Rows of an earlier run's other cases stay while their results do.
    """

    def __init__(self, output: Path, names: Iterable[str]):
        self._output = output
        earlier = _read(output / SUMMARIES[0])
        self.rows = {name: earlier.pop(name, CaseRow(name)) for name in names}
        self._others = [row for row in earlier.values() if row.finished and row.tells_of(output / row.case)]

    def put(self, *rows: CaseRow) -> None:
        """Take in rows and write the table."""
        self.rows.update({row.case: row for row in rows})
        everything = [*self.rows.values(), *self._others]
        told = {
            "software": f"SkullVAE {__version__}",
            "disclaimer": NOTICE,
            "cases": [asdict(row) for row in everything],
        }
        with atomic_file(self._output / SUMMARIES[0]) as temporary:
            temporary.write_text(as_json_text(told), encoding="utf-8")
        with (
            atomic_file(self._output / SUMMARIES[1]) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for row in everything:
                cells = {**asdict(row), "warnings": " ".join(row.warnings)}
                writer.writerow([cells[column] for column in _COLUMNS])


def _read(path: Path) -> dict[str, CaseRow]:
    """The rows of an earlier run by name; none where there is no table, or one that is not ours."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        rows = [CaseRow(**{**case, "warnings": tuple(case["warnings"])}) for case in cases]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {row.case: row for row in rows}
