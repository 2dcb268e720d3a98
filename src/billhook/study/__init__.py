"""Studies: at equal stored bytes, is a large pruned model better than a small dense one?

A study is a file (``spec``) about a ``family`` of networks. Its ``grid`` solves for the sparsities
that make the files equal (``sizes``) and lists the trials; ``trial`` trains one of them,
``workers`` many; ``store`` keeps what is finished; ``choice`` chooses by validation data and opens
the test data, once; ``comparison`` and ``statistics`` weigh the two arms; ``verdict``, ``report``
and ``plot`` say what came of it.
"""
