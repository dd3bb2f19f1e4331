"""The rooms of the Slicer module: what the panel shows, what the logic does, how the library is run.

No image processing happens here: that is SkullVAELib's, in a child process.
"""

from .librarypath import addLibraryToPath

# Before any room asks for it.
addLibraryToPath()
