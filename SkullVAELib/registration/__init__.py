"""From an image to a skull registered to the mean skull: bone segmentation, affine registration, warp, plausibility."""
