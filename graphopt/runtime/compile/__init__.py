"""From a region at known shapes to one compiled program over one arena."""
