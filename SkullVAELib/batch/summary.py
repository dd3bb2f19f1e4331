"""The results of a cohort as summary.json and summary.csv, which are up to date at any time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from SkullVAELib.batch.cohort import SUMMARIES
from SkullVAELib.core.atomic_output import atomic_file
from SkullVAELib.core.files import as_json_text, file_sha256
from SkullVAELib.core.version import NOTICE, __version__
from SkullVAELib.report.rating import Ratings
from SkullVAELib.report.result_names import RESULT_FILES

STATUS_WAITING, STATUS_DONE, STATUS_NO_DEFECT, STATUS_BAD_INPUT, STATUS_CRASHED = STATUSES = (
    "waiting",
    "done",
    "no defect",
    "bad input",
    "crashed",
)


@dataclass(frozen=True)
class CaseRow:
    """The result of a case.

    Attributes
    ----------
    case : str
        Name of the case.
    status : str
        One of `STATUSES`.
    sentence : str
        The reason of the status in one line; empty for a case that is done.
    defects, volume_ml, thickness_mm, rim_gap_mm, warnings
        As in the report of the case; the thickness is the mean.
    rating : str or None
        Overall rating, "good", "acceptable" or "poor", the worst of all rated figures; None without an implant.
    seconds : float or None
        Duration of the process.
    peak_mib : int or None
        Peak memory of the process in MiB; None where the system does not report it.
    made_from : dict or None
        Inputs of the result, see `SkullVAELib.batch.cohort.made_from`.
    report_sha256 : str or None
        SHA-256 of the report that the figures are from.
    """

    case: str
    status: str = STATUS_WAITING
    sentence: str = ""
    defects: int | None = None
    volume_ml: float | None = None
    thickness_mm: float | None = None
    rim_gap_mm: float | None = None
    rating: str | None = None
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
        """Return the row with the figures of the report in the case's folder.

        Parameters
        ----------
        folder : Path
            Folder of the case.

        Returns
        -------
        CaseRow
            A copy.

        Raises
        ------
        OSError, ValueError, KeyError
            The report is missing or is not one of SkullVAE.
        """
        path = folder / RESULT_FILES[-1]
        report = json.loads(path.read_text(encoding="utf-8"))
        implant = report.get("implant") or {}
        return replace(
            self,
            defects=implant.get("defects", 0),
            volume_ml=implant.get("volume_ml"),
            thickness_mm=(implant.get("thickness_mm") or {}).get("mean"),
            rim_gap_mm=implant.get("rim_gap_mm"),
            rating=Ratings.of(report).overall or None,
            warnings=tuple(report["warnings"]),
            report_sha256=file_sha256(path),
        )

    def up_to_date(self, folder: Path, made_from: dict | None) -> bool:
        """Whether the result in a folder is up to date, so that the case need not run again.

        It is where the case has finished with the same inputs (made_from) and its report has not changed.
        """
        if not self.finished or made_from is None or self.made_from != made_from:
            return False
        return self.matches_report(folder)

    def matches_report(self, folder: Path) -> bool:
        """Whether the report in a folder is the one that this row is from."""
        try:
            return file_sha256(folder / RESULT_FILES[-1]) == self.report_sha256
        except OSError:
            return False


# The last two fields are for the next run, not for a spreadsheet.
_COLUMNS = tuple(field.name for field in fields(CaseRow))[:-2]


class CohortTable:
    """The rows of the cases in an output folder, in order; both tables are rewritten at each change.

    Rows of other cases of an earlier run are kept while their results exist.

    Parameters
    ----------
    output : Path
        The output folder.
    names : iterable of str
        Names of the cases.

    Attributes
    ----------
    rows : dict of str to CaseRow
        Row of each case by name; that of an earlier run where there is one.
    """

    def __init__(self, output: Path, names: Iterable[str]):
        self._output = output
        earlier = _read(output / SUMMARIES[0])
        self.rows = {name: earlier.pop(name, CaseRow(name)) for name in names}
        self._others = [row for row in earlier.values() if row.finished and row.matches_report(output / row.case)]

    def put(self, *rows: CaseRow) -> None:
        """Replace the rows of some cases and write both tables."""
        self.rows.update({row.case: row for row in rows})
        everything = [*self.rows.values(), *self._others]
        summary = {
            "software": f"SkullVAE {__version__}",
            "disclaimer": NOTICE,
            "cases": [asdict(row) for row in everything],
        }
        with atomic_file(self._output / SUMMARIES[0]) as temporary:
            temporary.write_text(as_json_text(summary), encoding="utf-8")
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
    """The rows of an earlier run by name; empty where there is no table, or one of another program."""
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        rows = [CaseRow(**{**case, "warnings": tuple(case["warnings"])}) for case in cases]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {row.case: row for row in rows}
