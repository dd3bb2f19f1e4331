"""The Sample Data module, as far as another module asks it to show a sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleDataSource:
    """One entry of the module's gallery. Slicer counts the uris: None would break it, custom downloader or not."""

    sampleName: str
    uris: str | list
    fileNames: object
    nodeNames: object
    customDownloader: object
    thumbnailFileName: str | None
    loadFileTypes: object
    checksums: object


class SampleDataLogic:
    """Registers samples; the sources by category, as slicer.modules.sampleDataSources has them."""

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
        """As Slicer's: a source that is there already is not added twice."""
        if not isinstance(uris, str | list | tuple):
            raise TypeError(f"uris cannot be {uris!r}")
        source = SampleDataSource(
            sampleName, uris, fileNames, nodeNames, customDownloader, thumbnailFileName, loadFileTypes, checksums
        )
        entries = SampleDataLogic.sources.setdefault(category, [])
        if source.sampleName not in [entry.sampleName for entry in entries]:
            entries.append(source)


SampleDataLogic.sources = {}
