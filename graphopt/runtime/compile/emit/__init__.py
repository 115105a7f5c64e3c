"""Emission of kernel routines for each operation of the region IR, a module a family. Functions as in `elementwise`."""
