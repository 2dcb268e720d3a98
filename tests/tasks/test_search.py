"""Beam search against all sentences there are."""

import itertools
from typing import NamedTuple

import pytest
import torch

from billhook.tasks.search import beam_search, greedy_search, length_penalty

END, VOCAB, LONGEST = 0, 4, 4


class Table(NamedTuple):
    """A made-up language model: log-probabilities by sentence, last piece and position."""

    scores: torch.Tensor  # (B, position, last, next)
    position: int

    def select(self, rows: torch.Tensor) -> "Table":
        return Table(self.scores[rows], self.position)


def step(last: torch.Tensor, state: Table) -> tuple[torch.Tensor, Table]:
    scores = state.scores[torch.arange(len(last)), state.position, last]
    return scores, Table(state.scores, state.position + 1)


def table(seed: int, sentences: int = 3) -> Table:
    torch.manual_seed(seed)
    shape = (sentences, LONGEST, VOCAB, VOCAB)
    return Table((2 * torch.randn(shape)).log_softmax(-1), 0)


def score(state: Table, row: int, pieces: tuple[int, ...]) -> float:
    last, total = 1, 0.0
    for position, piece in enumerate(pieces):
        total += float(state.scores[row, position, last, piece])
        last = piece
    return total


def best_of_all(state: Table, row: int, power: float) -> list[int]:
    candidates = [
        (*body, END)
        for length in range(LONGEST)
        for body in itertools.product(range(1, VOCAB), repeat=length)
    ]
    best = max(candidates, key=lambda s: score(state, row, s) / length_penalty(len(s), power))
    return list(best[:-1])


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_sentence_of_all(seed: int, power: float) -> None:
    state = table(seed)
    first = torch.ones(3, dtype=torch.long)
    found = beam_search(step, state, first, END, LONGEST, beam=64, penalty_power=power)
    assert found == [best_of_all(state, row, power) for row in range(3)]


@pytest.mark.parametrize("seed", range(5))
def test_sentences_in_a_batch_are_searched_as_if_alone(seed: int) -> None:
    state = table(seed)
    together = beam_search(
        step, state, torch.ones(3, dtype=torch.long), END, LONGEST, beam=2, penalty_power=1.0
    )
    for row in range(3):
        alone = state.select(torch.tensor([row]))
        one = torch.ones(1, dtype=torch.long)
        found = beam_search(step, alone, one, END, LONGEST, beam=2, penalty_power=1.0)
        assert found == [together[row]]


def test_greedy_takes_the_most_likely_piece_each_time() -> None:
    state = table(0)
    found = greedy_search(step, state, torch.ones(3, dtype=torch.long), END, LONGEST)
    for row, pieces in enumerate(found):
        last = 1
        for position in range(LONGEST):
            expected = int(state.scores[row, position, last].argmax())
            if expected == END:
                assert len(pieces) == position
                break
            assert pieces[position] == expected
            last = expected


def test_where_nothing_ends_the_best_unfinished_hypothesis_is_the_answer() -> None:
    scores = torch.full((1, LONGEST, VOCAB, VOCAB), -10.0)
    scores[..., END] = float("-inf")
    scores[..., 2] = -0.1
    found = beam_search(
        step,
        Table(scores, 0),
        torch.ones(1, dtype=torch.long),
        END,
        LONGEST,
        beam=2,
        penalty_power=1.0,
    )
    assert found == [[2] * LONGEST]
