"""The self-check of an implant from the input, the completed mask and the mesh alone, whatever method made it."""
