"""Model family + data + metric + training recipe."""
