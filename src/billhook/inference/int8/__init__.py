"""Inference in 8 bits: weights s8, activations u8, sums s32, the same bits on every processor."""
