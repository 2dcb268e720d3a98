"""Studies: for the same file size, is a large pruned model better than a small dense one?

A study is a file (``spec``) about a ``family`` of networks. Its ``grid`` solves for the sparsities
that make the files equal (``sizes``) and lists the trials. ``run`` trains them, chooses by
validation data and opens the test data, once; ``records`` keeps what is finished; ``analysis``
compares the two arms; ``report`` shows the result.
"""
