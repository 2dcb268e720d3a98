"""A compiled model behind HTTP, with FastAPI.

    billhook convert and compile as in docs/deploying.md, or: python examples/own_cnn.py
    PROGRAM=program.billhook.safetensors uvicorn --app-dir examples serve:app

Send a picture as nested lists: ``{"pixels": [[0.0, ...], ...]}``. Needs fastapi and uvicorn.
"""

import os

import torch
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import billhook

torch.set_num_threads(1)  # requests run side by side
app = FastAPI(title="billhook")
program = billhook.load_compiled(os.environ["PROGRAM"])  # once, when the server starts


class Picture(BaseModel):
    """Grey values in [0, 1], row by row."""

    pixels: list[list[float]]


@app.post("/classify")
def classify(picture: Picture) -> dict[str, int | list[float]]:
    """The class with the largest logit, and the probabilities of all."""
    try:
        logits = program(torch.tensor(picture.pixels)[None, None])
    except (ValueError, RuntimeError) as error:  # of another size than the program was made for
        raise HTTPException(422, str(error)) from error
    return {"class": int(logits.argmax()), "probabilities": logits.softmax(1)[0].tolist()}
