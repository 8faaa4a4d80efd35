"""Files to fixed windows: decode, resample, cut."""
