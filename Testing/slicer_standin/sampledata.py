"""The Sample Data module, limited to the registration of samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleDataSource:
    """One entry of the module's gallery. Slicer counts the URIs, so None is an error also with a custom downloader."""

    sampleName: str
    uris: str | list
    fileNames: object
    nodeNames: object
    customDownloader: object
    thumbnailFileName: str | None
    loadFileTypes: object
    checksums: object


class SampleDataLogic:
    """Registers samples; sources by category, as in slicer.modules.sampleDataSources."""

    sources: dict[str, list[SampleDataSource]]

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
        """Register a sample; as in Slicer, a name is registered once."""
        if not isinstance(uris, str | list | tuple):
            raise TypeError(f"uris cannot be {uris!r}")
        source = SampleDataSource(
            sampleName, uris, fileNames, nodeNames, customDownloader, thumbnailFileName, loadFileTypes, checksums
        )
        entries = SampleDataLogic.sources.setdefault(category, [])
        if source.sampleName not in [entry.sampleName for entry in entries]:
            entries.append(source)


SampleDataLogic.sources = {}
