"""The HDF5 file: format, writer, reader, merge, verify."""
