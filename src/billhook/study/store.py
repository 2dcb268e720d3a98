"""A study's results folder: what is finished, who is at work on what, and nothing half written.

::

    study.json        the study, and the versions and machine it was begun with
    runs/<identity>/  config.json, metrics.csv, model.billhook.safetensors; outcome.json: the
                      marker, or failure.json in its place; before that checkpoint, progress.json
    curves.csv, layers.csv   of the chosen trials, see billhook.study.details
    rows.csv          every trial once the study is finished; reports are made from these alone

``outcome.json`` is put in place last, in one step, so a trial is finished if and only if it is
there: a process killed at any time loses the steps since its trial's last checkpoint. A trial is
taken by locking ``runs/<identity>/lock``; the system drops the lock when its holder dies, however
it dies.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

import billhook
from billhook.atomic import replacing
from billhook.errors import ConfigurationError, FormatError, StateError
from billhook.study.details import curves_as_csv, layers_as_csv
from billhook.study.grid import Trial
from billhook.study.provenance import provenance
from billhook.study.rows import Row, parse_rows, rows_as_csv
from billhook.study.spec import Study
from billhook.study.trial import MODEL_FILE, Outcome, Progress

__all__ = ["Sighting", "Store", "write_text"]


@dataclasses.dataclass(frozen=True)
class Sighting:
    """Where a trial stood when its process ``pid`` last left word of it.

    ``seconds_left`` is reckoned from the steps that this process has taken, None after the first.
    """

    progress: Progress
    pid: int
    seconds_left: float | None


@dataclasses.dataclass(frozen=True)
class Store:
    """The results folder at ``folder``. Safe to use from many processes at once."""

    folder: Path

    def begin(self, study: Study, command: str = "billhook study run") -> None:
        """Make the folder this study's, or see that it is.

        Args:
            command: what began it, for the report.

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
            write_text(path, json.dumps(_manifest(study, command), indent=2) + "\n")
        begun = self.provenance().get("billhook")
        if begun != billhook.__version__:
            raise ConfigurationError(
                f"{self.folder} was begun with billhook {begun}, this is {billhook.__version__}: "
                "its rows could not be compared with new ones; give another folder with --results"
            )
        theirs = self.study()
        if theirs != study:
            differing = [n for n in Study.model_fields if getattr(theirs, n) != getattr(study, n)]
            raise ConfigurationError(
                f"{self.folder} holds another study ({', '.join(differing)} differ): give this one "
                "a folder of its own with --results, or delete that one"
            )

    def study(self) -> Study:
        """The study that this folder holds."""
        try:
            return Study.model_validate(self._read_manifest()["study"])
        except ValidationError as error:
            raise FormatError(
                f"{self.folder / 'study.json'} is damaged, or of another billhook than this "
                f"{billhook.__version__}: {error}"
            ) from None

    def provenance(self) -> dict[str, str]:
        """Versions, commit and machine of the process that began this study."""
        found: dict[str, str] = self._read_manifest()["provenance"]
        return found

    def run_folder(self, trial: Trial) -> Path:
        """Where the trial's files are."""
        return self.folder / "runs" / trial.identity

    @contextlib.contextmanager
    def take(self, trial: Trial) -> Iterator[bool]:
        """Take ``trial`` for as long as the block runs.

        Yields:
            Whether the caller is to run it: False if it is settled or another process has it.
        """
        run = self.run_folder(trial)
        run.mkdir(parents=True, exist_ok=True)
        with (run / "lock").open("w") as lock:
            yield _lock(lock, exclusive=True) and not self.settled(trial)

    def running(self, trial: Trial) -> bool:
        """Whether some process has taken ``trial`` and is alive."""
        path = self.run_folder(trial) / "lock"
        if not path.exists():
            return False
        with path.open() as lock:
            return not _lock(lock, exclusive=False)

    def note(self, trial: Trial, sighting: Sighting) -> None:
        """Leave word of where a trial stands that the caller has taken."""
        text = json.dumps(dataclasses.asdict(sighting))
        write_text(self.run_folder(trial) / "progress.json", text + "\n")

    def sighting(self, trial: Trial) -> Sighting | None:
        """The last word of a trial that is not settled, None before the first."""
        try:
            text = (self.run_folder(trial) / "progress.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        found = json.loads(text)
        return Sighting(**found | {"progress": Progress(**found["progress"])})

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Record a trial whose file is written; from here on it counts."""
        run = self.run_folder(trial)
        write_text(run / "config.json", trial.canonical + "\n")
        write_text(run / "outcome.json", json.dumps(dataclasses.asdict(outcome)) + "\n")
        for name in ("progress.json", "checkpoint.pt"):
            (run / name).unlink(missing_ok=True)

    def fail(self, trial: Trial, reason: str, trace: str) -> None:
        """Record that a trial failed and is not to be run again until :meth:`retry`."""
        run = self.run_folder(trial)
        (run / "progress.json").unlink(missing_ok=True)
        content = {"reason": reason, "traceback": trace}
        write_text(run / "failure.json", json.dumps(content, indent=2) + "\n")

    def retry(self, trials: Iterable[Trial]) -> int:
        """Let those of ``trials`` that failed run again, from their checkpoints; how many.

        Raises:
            StateError: the folder has the rows of the study, but its runs are not there any more.
        """
        rows = self.rows()
        failed = [trial for trial in trials if self.failure(trial) is not None]
        if rows is not None and len(failed) != sum(bool(row.failure) for row in rows):
            raise StateError(
                f"{self.folder} has no runs/ with the failed runs: retry them in the folder where "
                "the study ran"
            )
        if failed:
            (self.folder / "rows.csv").unlink(missing_ok=True)
        for trial in failed:
            (self.run_folder(trial) / "failure.json").unlink()
        return len(failed)

    def finished(self, trial: Trial) -> bool:
        """Whether the trial has an outcome."""
        return (self.run_folder(trial) / "outcome.json").exists()

    def failure(self, trial: Trial) -> str | None:
        """Why the trial failed, None if it did not."""
        try:
            text = (self.run_folder(trial) / "failure.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        reason: str = json.loads(text)["reason"]
        return reason

    def settled(self, trial: Trial) -> bool:
        """Whether the trial needs no run any more: finished or failed."""
        return self.finished(trial) or (self.run_folder(trial) / "failure.json").exists()

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


def _manifest(study: Study, command: str) -> dict[str, Any]:
    return {
        "study": study.model_dump(mode="json"),
        "provenance": {"command": command, **provenance()},
    }


def _lock(file: IO[str], *, exclusive: bool) -> bool:
    """Lock ``file`` until it is closed, unless another process has it.

    Raises:
        StateError: this system or file system cannot.
    """
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        raise StateError(
            f"{file.name} cannot be locked ({error}), so that two processes might take one run: "
            "run the study on Linux or macOS, in a folder that supports flock"
        ) from None
    return True
