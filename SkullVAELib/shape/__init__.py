"""Complete shapes of a skull:

The signed distance field with outer and inner table, and the same warped to a patient.
"""
