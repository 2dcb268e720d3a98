"""Inference: sparse models compiled to CPU kernels that skip the zeros."""





