"""From a decoder to sentences: the most likely next piece, or beam search with length penalty.

``step`` takes the last pieces, int64 ``(N,)``, and a state, and gives log-probabilities ``(N, V)``
and the next state; ``state.select(rows)`` is the state of these rows. Below, B are sentences, K
hypotheses of each, V pieces.
"""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["beam_search", "greedy_search", "length_penalty"]

Step = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]


def length_penalty(length: int, power: float) -> float:
    """``((5 + length) / 6) ** power`` (Wu et al. 2016, eq. 14); the end counts as a piece.

    >>> length_penalty(1, 1.0), length_penalty(7, 1.0), length_penalty(7, 0.0)
    (1.0, 2.0, 1.0)
    """
    return float(((5 + length) / 6) ** power)


def greedy_search(
    step: Step, state: Any, first: torch.Tensor, end: int, max_length: int
) -> list[list[int]]:
    """The most likely piece after each, from ``first`` ``(B,)`` up to ``end`` or ``max_length``.

    The pieces are without ``first`` and ``end``.
    """
    last, columns = first, []
    ended = torch.zeros_like(first, dtype=torch.bool)
    for _ in range(max_length):
        scores, state = step(last, state)
        last = scores.argmax(dim=1)
        columns.append(last)
        ended |= last == end
        if bool(ended.all()):
            break
    return [_before(row, end) for row in torch.stack(columns, dim=1).tolist()]


def beam_search(
    step: Step,
    state: Any,
    first: torch.Tensor,
    end: int,
    max_length: int,
    *,
    beam: int,
    penalty_power: float,
) -> list[list[int]]:
    """The hypothesis with the highest ``log P / length_penalty`` among those the beam finds.

    ``beam`` unfinished hypotheses are kept at every position, and as many finished ones. The search
    ends when no unfinished one could still win, or at ``max_length``; where nothing has finished by
    then, the best unfinished one is the answer. ``first`` is ``(B,)``; the result is without
    ``first`` and ``end``.
    """
    count, device = len(first), first.device
    rows = torch.arange(count, device=device).unsqueeze(1)  # (B, 1)
    state = state.select(rows.expand(-1, beam).flatten())
    alive = torch.full((count, beam), float("-inf"), device=device)
    alive[:, 0] = 0.0  # all hypotheses are equal at first: one of them counts
    alive_pieces = first.reshape(-1, 1, 1).expand(-1, beam, 1)
    done = torch.full((count, beam), float("-inf"), device=device)
    done_pieces = torch.full((count, beam, 1), end, device=device)
    for length in range(1, max_length + 1):
        scores, state = step(alive_pieces[:, :, -1].flatten(), state)
        vocab = scores.shape[1]
        total = alive.unsqueeze(2) + scores.reshape(count, beam, vocab)  # (B, K, V)
        # Of 2K at most K end here, since each hypothesis ends in one way only: K go on.
        best, where = total.flatten(1).topk(min(2 * beam, beam * vocab), dim=1)
        parents, pieces = where // vocab, where % vocab
        extended = torch.cat([alive_pieces[rows, parents], pieces.unsqueeze(2)], dim=2)
        ends = pieces == end
        ended = (best / length_penalty(length, penalty_power)).masked_fill(~ends, float("-inf"))
        padding = torch.full((count, beam, 1), end, device=device)
        candidates = torch.cat([torch.cat([done_pieces, padding], dim=2), extended], dim=1)
        done, kept = torch.cat([done, ended], dim=1).topk(beam, dim=1)
        done_pieces = candidates[rows, kept]
        alive, kept = best.masked_fill(ends, float("-inf")).topk(beam, dim=1)
        alive_pieces = extended[rows, kept]
        state = state.select((rows * beam + parents.gather(1, kept)).flatten())
        reachable = alive[:, 0] / length_penalty(max_length, penalty_power)
        if bool((done[:, 0] >= reachable).all()):
            break
    finished = torch.isfinite(done[:, :1])
    answers = torch.where(finished, done_pieces[:, 0], alive_pieces[:, 0])
    return [_before(row, end) for row in answers[:, 1:].tolist()]


def _before(pieces: list[int], end: int) -> list[int]:
    return pieces[: pieces.index(end)] if end in pieces else pieces
