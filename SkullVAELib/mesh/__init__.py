"""Triangle meshes: isosurfaces, distances, decimation, colours and mesh files."""
