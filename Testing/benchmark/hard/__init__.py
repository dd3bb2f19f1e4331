"""Hard inputs for a completion: how they are made and judged; the commands are hard_inputs.py and found_holes.py."""
