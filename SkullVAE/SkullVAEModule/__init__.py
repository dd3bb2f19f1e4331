"""The Slicer module: its panel, its logic, and the child process that runs the library.

The image processing is in SkullVAELib, which runs in the child process.
"""

from .librarypath import addLibraryToPath

# Before any module of this package imports the library.
addLibraryToPath()
