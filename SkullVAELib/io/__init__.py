"""Reading and writing image files, with checks of their headers."""
