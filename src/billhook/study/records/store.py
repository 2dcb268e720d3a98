"""A study's results folder: which runs are finished and which process trains which run.

::

    study.json        the study, and the versions and machine it was begun with
    runs/<identity>/  config.json, metrics.csv, model.billhook.safetensors; outcome.json: the
                      marker, or failure.json in its place; before that checkpoint, progress.json;
                      test.json of the chosen ones, once measured
    rows.csv, curves.csv, layers.csv   see billhook.study.records.records: all that reports need,
                      and all that has to be kept; runs/ matters for groups that have no rows yet

``outcome.json`` is put in place last, in one step, so a trial is finished if and only if it is
there: a process killed at any time loses the steps since its trial's last checkpoint. A trial is
taken by locking ``runs/<identity>/lock``; the system drops the lock when its holder dies, however
it dies.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

import billhook
from billhook.atomic import remove_leftovers, write_text
from billhook.errors import ConfigurationError, FormatError, StateError
from billhook.study.grid import Trial
from billhook.study.records.lock import is_locked, locked
from billhook.study.records.outcome import Heartbeat, Outcome
from billhook.study.records.provenance import provenance
from billhook.study.records.reading import LATENCY, printable, read_json
from billhook.study.records.records import Records
from billhook.study.spec import Study

__all__ = ["Identified", "Run", "Store"]


class Identified(Protocol):
    """A run by its identity: a trial of a plan, or one found in the folder."""

    @property
    def identity(self) -> str:
        """The name of its folder in runs/ and in rows.csv."""
        ...


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that was found in the folder."""

    identity: str


@dataclasses.dataclass(frozen=True)
class Store:
    """The results folder at ``folder``. Safe to use from many processes at once."""

    folder: Path

    def begin(self, study: Study, command: str = "billhook study run") -> None:
        """Make the folder this study's, or check that it is.

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
        differing = [n for n in Study.model_fields if getattr(theirs, n) != getattr(study, n)]
        if differing == ["values"]:  # measured at the end: nothing that is there depends on it
            manifest = self._read_manifest() | {"study": study.model_dump(mode="json")}
            write_text(path, json.dumps(manifest, indent=2) + "\n")
        elif differing:
            raise ConfigurationError(
                f"{self.folder} holds another study ({', '.join(differing)} differ): give this one "
                "a folder of its own with --results, or delete that one"
            )

    def study(self) -> Study:
        """The study that this folder holds."""
        manifest = self._read_manifest()
        try:
            study = Study.model_validate(manifest["study"])
            if study.metrics:
                study.measured(study.metric), study.measured(study.choose_by)
        except (ValidationError, ConfigurationError) as error:
            raise FormatError(
                f"{self.folder / 'study.json'} is damaged, or of another billhook than this "
                f"{billhook.__version__}: {error}"
            ) from None
        return study

    def check_runs(self, planned: Collection[str]) -> None:
        """See that the rows are of the runs that are planned now.

        Raises:
            ConfigurationError: some are not: the network, its data or the recipe were edited.
        """
        others = [run for run in self.records.by_run() if run not in planned]
        if others:
            raise ConfigurationError(
                f"{self.folder} has {len(others)} runs of an earlier version of this study, such "
                f"as {others[0]}: its network or its data have changed since; give --results with "
                "another folder, or undo the change"
            )

    def provenance(self) -> dict[str, str]:
        """Versions, commit and machine of the process that began this study."""
        found: dict[str, str] = self._read_manifest()["provenance"]
        return found

    @property
    def records(self) -> Records:
        """The rows of the groups that are settled, with curves and layers."""
        return Records(self.folder)

    def runs(self) -> list[Run]:
        """Every run that is recorded or has a folder."""
        begun = sorted(path.name for path in (self.folder / "runs").glob("*/"))
        return [Run(run) for run in dict.fromkeys((*self.records.by_run(), *begun))]

    def run_folder(self, trial: Identified) -> Path:
        """Where the trial's files are."""
        return self.folder / "runs" / trial.identity

    @contextlib.contextmanager
    def take(self, trial: Identified) -> Iterator[bool]:
        """Take ``trial`` for as long as the block runs.

        Yields:
            Whether the caller has it: False if another process does. It may be settled by now.
        """
        run = self.run_folder(trial)
        run.mkdir(parents=True, exist_ok=True)
        with locked(run / "lock") as mine:
            if mine:
                remove_leftovers(run)
            yield mine

    def running(self, trial: Identified) -> bool:
        """Whether some process has taken ``trial`` and is alive."""
        return is_locked(self.run_folder(trial) / "lock")

    def note(self, trial: Identified, heartbeat: Heartbeat) -> None:
        """Record the progress of a trial that the caller holds."""
        text = json.dumps(dataclasses.asdict(heartbeat))
        write_text(self.run_folder(trial) / "progress.json", text + "\n")

    def heartbeat(self, trial: Identified) -> Heartbeat | None:
        """The last heartbeat of a trial that is not settled, None before the first or if damaged:
        nothing depends on it."""
        try:
            return read_json(self.run_folder(trial) / "progress.json", Heartbeat)
        except FormatError:
            return None

    def finish(self, trial: Trial, outcome: Outcome) -> None:
        """Record a trial whose file is written; from here on it counts."""
        run = self.run_folder(trial)
        write_text(run / "config.json", trial.canonical + "\n")
        write_text(run / "outcome.json", json.dumps(dataclasses.asdict(outcome)) + "\n")
        for name in ("progress.json", "checkpoint.pt"):
            (run / name).unlink(missing_ok=True)

    def finish_test(self, trial: Identified, test: dict[str, float]) -> None:
        """Record the test metrics of a chosen trial's network, once and for all."""
        write_text(self.run_folder(trial) / "test.json", json.dumps(test) + "\n")

    def fail(self, trial: Identified, reason: str, trace: str) -> None:
        """Record that a trial failed and is not to be run again until :meth:`retry`."""
        run = self.run_folder(trial)
        (run / "progress.json").unlink(missing_ok=True)
        content = dataclasses.asdict(_Failure(reason, trace))
        write_text(run / "failure.json", json.dumps(content, indent=2) + "\n")

    def retry(self, trials: Iterable[Identified]) -> int:
        """Let those of ``trials`` that failed run again, from their checkpoints; how many.

        Raises:
            StateError: another process is at work on the study's records.
        """
        failed = [trial for trial in trials if self.failure(trial) is not None]
        if failed and not self.records.drop({trial.identity for trial in failed}):
            raise StateError(
                f"another process is writing the records in {self.folder}: give the command again"
            )
        if failed:
            (self.folder / LATENCY).unlink(missing_ok=True)  # others may be chosen
        for trial in failed:
            (self.run_folder(trial) / "failure.json").unlink(missing_ok=True)
        return len(failed)

    def finished(self, trial: Identified) -> bool:
        """Whether the trial has an outcome."""
        return self.outcome(trial) is not None

    def failure(self, trial: Identified) -> str | None:
        """Why the trial failed, None if it did not."""
        row = self.records.by_run().get(trial.identity)
        if row is not None:
            return row.failure or None
        found = read_json(self.run_folder(trial) / "failure.json", _Failure)
        return None if found is None else printable(found.reason)

    def settled(self, trial: Identified) -> bool:
        """Whether the trial needs no run any more: finished or failed."""
        run = self.run_folder(trial)
        return trial.identity in self.records.by_run() or any(
            (run / name).exists() for name in ("outcome.json", "failure.json")
        )

    def outcome(self, trial: Identified) -> Outcome | None:
        """What a finished trial came to, None of any other."""
        row = self.records.by_run().get(trial.identity)
        if row is not None:
            return row.outcome
        if self.failure(trial) is not None:  # it may have failed on test data
            return None
        return read_json(self.run_folder(trial) / "outcome.json", Outcome)

    def test(self, trial: Identified) -> dict[str, float] | None:
        """The test metrics of a trial that was chosen and measured, None of any other."""
        row = self.records.by_run().get(trial.identity)
        if row is not None and row.chosen:
            return row.test
        return read_json(self.run_folder(trial) / "test.json", dict[str, float])

    def _read_manifest(self) -> dict[str, Any]:
        path = self.folder / "study.json"
        if not path.exists():
            raise ConfigurationError(
                f"{self.folder} holds no study (no study.json): give the folder that "
                "`billhook study run` wrote"
            )
        try:
            manifest: dict[str, Any] = printable(json.loads(path.read_bytes()))
            facts = manifest["provenance"]
            if not {"command", "billhook"} <= facts.keys() or not all(
                isinstance(fact, str) for fact in facts.values()
            ):
                raise ValueError("its provenance is not what billhook writes")
            manifest["study"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"{path} is damaged ({error!r}): restore it or delete it") from None
        return manifest


@dataclasses.dataclass(frozen=True)
class _Failure:
    reason: str
    traceback: str


def _manifest(study: Study, command: str) -> dict[str, Any]:
    return {
        "study": study.model_dump(mode="json"),
        "provenance": {"command": command, **provenance()},
    }
