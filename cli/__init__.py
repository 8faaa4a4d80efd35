"""The commands: parse, call the library, present."""
