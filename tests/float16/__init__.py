"""Tests of the conversion to half precision."""
