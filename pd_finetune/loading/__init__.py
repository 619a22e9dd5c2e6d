"""Targets and decompositions by name, whatever they are: a folder, what ships, Hub, Goodfire's."""
