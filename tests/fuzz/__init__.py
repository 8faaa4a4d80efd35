"""Fuzzers: a seeded mutator for every door that a stranger's file or a command line comes through.

``python tests/fuzz --cases 10000`` runs all doors; a file in ``doors/`` adds one.
"""
