"""Fine-tuning with the Hugging Face Trainer: which language is a name in, German or English?

    python examples/huggingface.py

The pairs of names ship with Babel, and the model is a small BERT over characters with random
weights, so nothing is downloaded. With a checkpoint of your own, `from_pretrained` takes the place
of `BertForSequenceClassification(config)`. Needs the extras `transformers` and `data`.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import billhook
from billhook.data.names_de_en import load
from billhook.integrations.transformers import PruningCallback

LENGTH = 24


def examples(german: list[str], english: list[str]) -> list[dict[str, Any]]:
    """Characters as numbers below 256, 0 where a name has ended; label 1 is English."""
    rows = []
    for label, names in enumerate((german, english)):
        for name in names:
            codes = [ord(letter) % 255 + 1 for letter in name[:LENGTH]]
            ids = torch.tensor(codes + [0] * (LENGTH - len(codes)))
            rows.append(
                {
                    "input_ids": ids,
                    "attention_mask": (ids > 0).long(),
                    "labels": torch.tensor(label),
                }
            )
    return rows


def main() -> None:
    """Train, prune, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/huggingface"))
    options = parser.parse_args()
    torch.manual_seed(0)
    pairs = load("de", "en")
    train = examples(list(pairs.train.source), list(pairs.train.target))
    test = examples(list(pairs.test.source), list(pairs.test.target))
    config = BertConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=LENGTH,
    )
    arguments = TrainingArguments(
        str(options.out),
        max_steps=options.steps,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    schedule = billhook.Cubic.over(options.steps, final_sparsity=0.8)
    rules = {"bert.embeddings.*": None, "classifier": None}  # small, and they touch every example
    trainer = Trainer(
        BertForSequenceClassification(config),
        arguments,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=lambda result: {
            "accuracy": float((result.predictions.argmax(1) == result.label_ids).mean())
        },
        callbacks=[PruningCallback(schedule, rules=rules)],
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    saved = billhook.save(trainer.model, options.out / "model.billhook.safetensors")
    print(f"accuracy {accuracy:.1%}, file {saved.ratio:.1f} times smaller than dense")


if __name__ == "__main__":
    main()
