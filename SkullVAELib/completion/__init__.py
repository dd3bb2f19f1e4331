"""From a registered patient to the completed skull: prior, defects, Gaussian-process correction, implant voxels,
uncertainty.
"""
