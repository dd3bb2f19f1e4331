"""From an image to a skull registered to the mean skull:

Bone segmentation, affine and free-form registration, plausibility.
"""
