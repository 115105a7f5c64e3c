"""Routines of each operation of the region IR, a module a family. Functions as in `elementwise`."""
