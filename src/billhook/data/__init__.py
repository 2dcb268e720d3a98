"""Data from local files in the standard formats, and small sets that ship with a dependency.

Every loader describes its data, checks the counts and refuses an incomplete data set with a
:class:`billhook.errors.DataError` that names the path and the line.
"""
