"""Datasets of skulls, synthetic defects, augmentation and generated skulls."""
