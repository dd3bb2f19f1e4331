"""The Sample Data module, limited to the registration of samples."""

from __future__ import annotations

from dataclasses import dataclass

import slicer


@dataclass(frozen=True)
class SampleDataSource:
    """One entry of the module's gallery; for one URI, the other fields are lists with one entry, as in Slicer."""

    sampleName: str
    uris: list
    fileNames: list
    nodeNames: list
    customDownloader: object
    thumbnailFileName: str | None
    loadFileTypes: list
    checksums: list


class SampleDataLogic:
    """Registers samples in slicer.modules.sampleDataSources, by category."""

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ) -> None:
        """Register a sample; as in Slicer, an equal one is registered once, and other downloaders are not equal.

        Slicer counts the URIs, so None is an error also with a custom downloader.
        """
        if not isinstance(uris, str):
            raise TypeError(f"uris cannot be {uris!r}")
        source = SampleDataSource(
            sampleName, [uris], [fileNames], [nodeNames], customDownloader, thumbnailFileName, [loadFileTypes],
            [checksums],
        )  # fmt: skip
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        entries = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in entries:
            entries.append(source)
