"""The words of a report's page, each with what it means there."""

from billhook.study.analysis.comparison import CLAIM_SEEDS
from billhook.study.analysis.statistics import LEVEL
from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE

__all__ = ["GLOSSARY"]

GLOSSARY = {
    LARGE: "The wide network without any pruning. It is what both arms are measured against.",
    SPARSE: "The wide network, pruned in training until its file has the bytes of a narrow one.",
    DENSE: "A narrow network without zeros, trained for as many steps.",
    LONGER: "The narrow network again, trained for as many multiply-adds as the wide one took.",
    "arm": "One side of the comparison: small-dense or large-sparse.",
    "size": "A number of bytes at which both arms have a file.",
    "sparsity": "The share of weights that are zero. 90% means that one weight in ten is left.",
    "NNZ": "The number of weights that are not zero.",
    "coding": "How the zeros are written in a file; auto is the smallest for each tensor.",
    "seed": "One repetition, with its own random numbers.",
    "interval": f"The range that holds the true value in {LEVEL:.0%} of such experiments.",
    "undecided": "The interval of the difference holds zero, or there are fewer than "
    f"{CLAIM_SEEDS} seeds.",
    "minimal loss": "The largest sparsity at which the metric is shown to be within the margin of "
    "the unpruned network's.",
}
