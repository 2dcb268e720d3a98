"""A study's results folder: what is finished, who is at work on what, and nothing half written.

::

    study.json        the study, and the versions and machine it was begun with
    runs/<identity>/  config.json, metrics.csv, model.billhook.safetensors; outcome.json: the marker
    curves.csv, layers.csv   of the chosen trials, see billhook.study.details
    rows.csv          every trial once the study is finished; reports are made from these alone

``outcome.json`` is put in place last, in one step, so a trial is finished if and only if it is
there: a process killed at any time loses the trial it was at and no other. A trial is taken by
locking ``runs/<identity>/lock``; the system drops the lock when its holder dies, however it dies.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import billhook
from billhook.atomic import replacing
from billhook.errors import ConfigurationError, FormatError
from billhook.study.details import curves_as_csv, layers_as_csv
from billhook.study.grid import Trial
from billhook.study.provenance import provenance
from billhook.study.rows import Row, parse_rows, rows_as_csv
from billhook.study.spec import Study
from billhook.study.trial import MODEL_FILE, Outcome

__all__ = ["Store", "write_text"]


@dataclasses.dataclass(frozen=True)
class Store:
    """The results folder at ``folder``. Safe to use from many processes at once."""

    folder: Path

    def begin(self, study: Study) -> None:
        """Make the folder this study's, or see that it is.

        Raises:
            ConfigurationError: it holds another study, or one begun with another billhook.
        """
        path = self.folder / "study.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            names = {f.name for f in self.folder.iterdir() if not f.name.startswith(".")}
            if names and path.name not in names:  # there by now if another process began too
                raise ConfigurationError(
                    f"{self.folder} is not empty and holds no study: give an empty or new folder "
                    "with --results"
                )
            write_text(path, json.dumps(_manifest(study), indent=2) + "\n")
        theirs = self.study()
        if theirs != study:
            differing = [n for n in Study.model_fields if getattr(theirs, n) != getattr(study, n)]
            raise ConfigurationError(
                f"{self.folder} holds another study ({', '.join(differing)} differ): give this one "
                "a folder of its own with --results, or delete that one"
            )
        begun = self.provenance()["billhook"]
        if begun != billhook.__version__:
            raise ConfigurationError(
                f"{self.folder} was begun with billhook {begun}, this is {billhook.__version__}: "
                "its rows could not be compared with new ones; give another folder with --results"
            )

    def study(self) -> Study:
        """The study that this folder holds."""
        try:
            return Study.model_validate(self._read_manifest()["study"])
        except ValidationError as error:
            raise FormatError(f"{self.folder / 'study.json'} is damaged: {error}") from None

    def provenance(self) -> dict[str, str]:
        """Versions, commit and machine of the process that began this study."""
        found: dict[str, str] = self._read_manifest()["provenance"]
        return found

    def run_folder(self, trial: Trial) -> Path:
        """Where the trial's files are."""
        return self.folder / "runs" / trial.identity

    @contextlib.contextmanager
    def take(self, trial: Trial, *, wait: bool) -> Iterator[bool]:
        """Take ``trial`` for as long as the block runs.

        Yields:
            Whether the caller is to run it: False if it is finished, or if another process has it
            and ``wait`` is not set. With ``wait``, another process is first let finish, or die.
        """
        if self.finished(trial):
            yield False
            return
        run = self.run_folder(trial)
        run.mkdir(parents=True, exist_ok=True)
        with (run / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield not self.finished(trial)

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Record a trial whose file is written; from here on it counts."""
        run = self.run_folder(trial)
        write_text(run / "config.json", trial.canonical + "\n")
        write_text(run / "outcome.json", json.dumps(dataclasses.asdict(outcome)) + "\n")

    def finished(self, trial: Trial) -> bool:
        """Whether the trial needs no run any more."""
        return (self.run_folder(trial) / "outcome.json").exists()

    def outcome(self, trial: Trial) -> Outcome:
        """What a finished trial came to."""
        text = (self.run_folder(trial) / "outcome.json").read_text(encoding="utf-8")
        return Outcome(**json.loads(text))

    def write_rows(self, rows: list[Row]) -> None:
        """Put all rows in place, and with them curves and layers: the study is finished."""
        chosen = [(row.run, self.folder / "runs" / row.run) for row in rows if row.chosen]
        write_text(self.folder / "curves.csv", curves_as_csv(chosen))
        files = [(run, folder / MODEL_FILE) for run, folder in chosen]
        write_text(self.folder / "layers.csv", layers_as_csv(files))
        write_text(self.folder / "rows.csv", rows_as_csv(rows))

    def rows(self) -> list[Row] | None:
        """The rows of a finished study, None of any other."""
        path = self.folder / "rows.csv"
        if not path.exists():
            return None
        return parse_rows(path.read_text(encoding="utf-8"), str(path))

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / "study.json"
        if not path.exists():
            raise ConfigurationError(
                f"{self.folder} holds no study (no study.json): give the folder that "
                "`billhook study run` wrote"
            )
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            manifest["study"], manifest["provenance"]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} is damaged ({error!r}): restore it or delete it") from None
        return manifest


def write_text(path: Path, text: str) -> None:
    """Put ``text`` in place of the file at ``path``, in one step."""
    with replacing(path) as file:
        file.write(text.encode())


def _manifest(study: Study) -> dict[str, Any]:
    return {"study": study.model_dump(mode="json"), "provenance": provenance()}
