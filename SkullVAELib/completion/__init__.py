"""From a registered patient to the completed skull:

Prior, defects, Gaussian-process correction, implant voxels, uncertainty.
"""
