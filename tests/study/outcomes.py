"""Outcomes of trials that never ran."""

from billhook.study.trial import Outcome


def outcome(validation: dict[str, float], size: int = 123) -> Outcome:
    return Outcome(
        parameters=50,
        nonzero=45,
        bytes=size,
        bytes_dense=size + 1,
        bytes_bitmask=size + 2,
        bytes_relative_index=size + 3,
        bytes_entropy=size + 4,
        training_operations=900,
        inference_operations=90,
        seconds=1.5,
        validation=validation,
    )
