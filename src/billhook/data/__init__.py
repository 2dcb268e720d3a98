"""Data from local files in the standard formats, and small sets that ship with a dependency.

Every loader says what it found, checks the counts and refuses half a data set with a
:class:`billhook.errors.DataError` that names the path and the line.
"""
