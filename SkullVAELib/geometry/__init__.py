"""Volumes, grids, affine maps, masks, regions of interest and distance fields, all in millimetres."""
