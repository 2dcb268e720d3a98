"""A pruned weight as the kernels read it: compressed rows, lanes of rows, panels."""
