"""Making a model's folder be one of its versions: saved first, built beside, put in place at once.

Whatever ends it, and whenever, the folder is wholly what it was or wholly the version.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from backupd.capture.folders import OWN_TEMPORARY_PREFIX, shown
from backupd.capture.scan import Scan, ScanOptions, SkipKind, Skipped
from backupd.config.settings import ModelSettings
from backupd.errors import BackupdError, NotFoundError, StoppedError, UsageError
from backupd.operations.catalog import ResolvedSnapshot, iterate_files
from backupd.operations.heads import Head, read_head, write_head
from backupd.operations.installation import Installation
from backupd.operations.local_files import LocalFiles, Taken, carry
from backupd.operations.names import templates_for
from backupd.operations.placement import RestoreRoot
from backupd.operations.progress import NoProgress, Progress
from backupd.operations.reports import SnapshotInfo
from backupd.operations.resolve import resolve
from backupd.operations.restoring import FileRestorer
from backupd.operations.snapshot import take_snapshot
from backupd.operations.standing import Standing, look_at, refuse_writers
from backupd.operations.swapping import Journal, Plan, Swapper, finish_left, open_journal
from backupd.repository.reader import BlobFinder, BlobReader
from backupd.repository.tree import FileType, TreeEntry

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class SwitchReport:
    """The end of one switch.

    `version` is what the folder is now, `saved` the snapshot of what it was, None where there was
    no folder. With `already` the folder was the version, and nothing was done. `shared` files take
    no new room, `copied` ones were read from the old folder, `fetched` ones from a target.
    `carried` paths are kept by no snapshot, and stayed.
    """

    model: str
    version: SnapshotInfo
    saved: SnapshotInfo | None
    saved_anew: bool
    already: bool = False
    shared: Taken = field(default_factory=Taken)
    copied: Taken = field(default_factory=Taken)
    fetched: Taken = field(default_factory=Taken)
    carried: int = 0
    notes: tuple[str, ...] = ()


def find_version(
    installation: Installation, model: ModelSettings, text: str, *, target: str = ""
) -> ResolvedSnapshot:
    """The version of a model that `text` means: `v12`, `12`, `best`, or any name of a snapshot.

    Raises `NotFoundError`, and `UsageError` where that is a version of another model or host.
    """
    named = "@" in text or any(t.parse(text) for t in templates_for(installation.settings, text))
    spec = text if named else f"{model.name}@{'v' if text.isdecimal() else ''}{text}"
    found = resolve(installation, spec, target=target)
    if (found.info.model, found.info.host) != (model.name, installation.settings.host):
        raise UsageError(
            f"{text!r} is a version of {found.info.host}:{found.info.model}, not of {model.name}",
            hint=f"backupd restore {found.info.host}:{found.info.name} --to DIR gives it back",
        )
    return found


def undone_version(
    installation: Installation, model: ModelSettings, *, target: str = ""
) -> ResolvedSnapshot:
    """The version that the model's folder was before its last switch. Raises `NotFoundError`."""
    head = read_head(installation, model.name)
    if head is None or not head.came_from:
        raise NotFoundError(
            f"{model.name} was not switched, so there is nothing to undo",
            hint=f"backupd log {model.name} shows its versions",
        )
    return find_version(installation, model, f"v{head.came_from}", target=target)


def switch(
    installation: Installation,
    model: ModelSettings,
    version: ResolvedSnapshot,
    *,
    force: bool = False,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> SwitchReport:
    """Save the model's present state, and make its folder be `version`.

    What no snapshot of the version's scheme keeps (excluded files, those of other roles) stays.
    With `force` it is done although a process writes to the folder, or part of it could not be
    saved. Raises `BackupdError` with the folder as it was, and `StoppedError`.
    """
    progress = progress or NoProgress()
    stop = stop or threading.Event()
    root = _real_folder(model)
    with _own_journal(installation, model) as journal:
        finish_left(installation, model.name, journal, progress.note)
        run = _Switch(installation, model, version, root, journal, progress, stop)
        return run.carry_out(force=force)


@contextmanager
def _own_journal(installation: Installation, model: ModelSettings) -> Iterator[Journal]:
    with open_journal(installation, model.name) as journal:
        if journal is None:
            raise BackupdError(
                f"{model.name} is being switched by another process", hint="wait for it to end"
            )
        yield journal


def _real_folder(model: ModelSettings) -> str:
    """The folder itself, where the model's path is a symlink to it. Raises `BackupdError`."""
    root = os.path.realpath(model.path)
    try:
        if os.path.lexists(root) and not os.path.isdir(root):
            raise BackupdError(f"{shown(os.fsencode(root))} is no folder")
        if os.path.ismount(root):
            raise BackupdError(
                f"{model.path} is where a filesystem is mounted, which cannot be put aside",
                hint="make a folder on it the model's path, or use restore --overwrite",
            )
        parent = os.path.dirname(root)
        if os.path.isdir(root) and os.stat(root).st_dev != os.stat(parent).st_dev:
            raise BackupdError(
                f"{model.path} and {parent} are on different filesystems",
                hint="make a folder below it the model's path, or use restore --overwrite",
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise BackupdError(
                f"{shown(os.fsencode(parent))}, where the version is built, cannot be written to",
                hint="run the command as a user who may write there, such as root",
            )
    except OSError as error:
        raise BackupdError(f"{model.path} cannot be looked at: {error.strerror}") from None
    return root


class _Switch:
    """One switch, whose steps share what they found."""

    def __init__(
        self,
        installation: Installation,
        model: ModelSettings,
        version: ResolvedSnapshot,
        root: str,
        journal: Journal,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self.installation = installation
        self.model = model
        self.version = version
        self.root = root
        self.journal = journal
        self.progress = progress
        self.stop = stop
        self.notes: list[str] = []
        self.fetched = Taken()
        folder, name = os.path.split(root)
        own = f"{os.fsdecode(OWN_TEMPORARY_PREFIX)}switch-{installation.random(4).hex()}-"
        self.staged = os.path.join(folder, f"{own}new-{name}"[:250])
        self.aside = os.path.join(folder, f"{own}old-{name}"[:250])

    def carry_out(self, *, force: bool) -> SwitchReport:
        """The steps."""
        saved, saved_anew, standing = None, False, None
        if os.path.isdir(self.root):
            saved, saved_anew, standing = self._save(force=force)
        if saved is not None and saved.info.id == self.version.info.id:
            return self._report(saved, saved_anew=False, already=True)
        present = iterate_files(saved) if saved else ()
        local = LocalFiles(os.fsencode(self.root), present)
        carried = self._carried(local) if standing else []
        linkable = not force  # a writer that goes on would write into the version
        plan = self._plan(saved, standing)
        try:
            self.journal.write(plan)
            self._build(local, carried, may_link=linkable)
            self._put_in_place(plan, standing, force=force)
        except BaseException:
            # A switch that was killed is ended by the next; one that failed, here.
            finish_left(self.installation, self.model.name, self.journal, self.notes.append)
            raise
        return replace(
            self._report(saved, saved_anew=saved_anew),
            shared=local.shared,
            copied=local.copied,
            carried=len(carried),
        )

    def _report(
        self, saved: ResolvedSnapshot | None, *, saved_anew: bool, already: bool = False
    ) -> SwitchReport:
        return SwitchReport(
            model=self.model.name,
            version=self.version.info,
            saved=saved.info if saved else None,
            saved_anew=saved_anew,
            already=already,
            fetched=self.fetched,
            notes=tuple(self.notes),
        )

    def _save(self, *, force: bool) -> tuple[ResolvedSnapshot, bool, Standing]:
        """Snapshot what is there, under the version's scheme; nothing may be written meanwhile."""
        model = replace(self.model, scheme=self.version.info.scheme)
        root = os.fsencode(self.root)
        for _ in range(_ATTEMPTS):
            standing = look_at(root)
            if not force:
                refuse_writers(root, standing)
            report = take_snapshot(self.installation, model, progress=self.progress, stop=self.stop)
            info = report.snapshot
            if info is None:
                raise BackupdError(f"{self.model.name}: its present state could not be saved")
            if report.incomplete and not force:
                missing = "; ".join(report.incomplete[:3])
                raise BackupdError(
                    f"the present state cannot be saved in whole: {missing}",
                    hint="see why, or give --force to lose what could not be saved",
                )
            if look_at(root).digest == standing.digest:
                return resolve(self.installation, info.name), not report.unchanged, standing
        raise BackupdError(
            f"{self.model.path} is written to again and again",
            hint="stop what writes to it, and switch then",
        )

    def _carried(self, local: LocalFiles) -> list[tuple[bytes, bool]]:
        """What is in the folder and in no snapshot of the scheme: (path, whether a folder)."""
        found = []
        with Scan(os.fsencode(self.root), ScanOptions()) as scan:
            for item in scan:
                if isinstance(item, Skipped):
                    if item.kind is SkipKind.SPECIAL:
                        found.append((item.path, False))
                elif not local.holds(item.path):
                    found.append((item.path, item.type is FileType.FOLDER))
        return found

    def _build(
        self, local: LocalFiles, carried: list[tuple[bytes, bool]], *, may_link: bool
    ) -> None:
        """Build the version beside the folder, on the same filesystem."""
        kept = {path for path, is_folder in carried if not is_folder}
        repository = self.version.repository
        index = repository.load_index(self.progress.note)
        reader = BlobReader(BlobFinder(repository, index, self.progress.note))
        failed: dict[str, str] = {}
        self.progress.begin("switch", self.version.info.size_bytes)
        os.mkdir(self.staged, 0o700)
        with RestoreRoot(os.fsencode(self.staged), claim_root=True, warn=self._warn) as place:
            links: list[TreeEntry] = []
            with FileRestorer(
                reader.finder,
                place,
                threads=self.installation.settings.limits.threads,
                waiting=self.installation.reads_ahead(repository.name),
                failed=failed,
                progress=self.progress,
                stop=self.stop,
            ) as restorer:
                for entry in iterate_files(self.version):
                    if self.stop.is_set():
                        raise StoppedError("stopped; the folder is as it was")
                    if entry.path in kept:
                        self._warn(entry.path, "no snapshot keeps it now, so it stays as it is")
                    elif entry.type is FileType.FOLDER:
                        place.make_folder(entry)
                    elif entry.type is FileType.SYMLINK:
                        place.make_symlink(entry)
                    elif entry.type is FileType.HARDLINK:
                        links.append(entry)
                    elif local.take(entry, place, may_link=may_link):
                        self.progress.advance(entry.metadata.size_bytes, 1)
                    else:
                        restorer.add(entry, reader)
            for entry in links:
                place.make_hardlink(entry)
            self.fetched = Taken(restorer.restored_files, restorer.restored_bytes)
            if failed:
                path, why = next(iter(failed.items()))
                more = f", and {len(failed) - 1} more files" if len(failed) > 1 else ""
                raise BackupdError(
                    f"{path} of {self.version.info.name} cannot be given: {why}{more}",
                    hint="backupd check says what is damaged; the folder is as it was",
                )
            self._carry(carried)
            place.finish_folders()

    def _carry(self, carried: list[tuple[bytes, bool]]) -> None:
        try:
            carry(os.fsencode(self.root), os.fsencode(self.staged), carried)
        except OSError as error:
            raise BackupdError(
                f"what no snapshot keeps in {shown(os.fsencode(self.root))} cannot be taken"
                f" along: {error.strerror}",
                hint="move it elsewhere first; backupd show and exclude say what is not kept",
            ) from None

    def _plan(self, saved: ResolvedSnapshot | None, standing: Standing | None) -> Plan:
        came_from = saved.info.version if saved else 0
        return Plan(
            root=self.root,
            staged=self.staged,
            aside=self.aside,
            old_inode=os.lstat(self.root).st_ino if standing else 0,
            new_inode=0,
            digest=standing.digest if standing else "",
            head=Head(self.version.info.version, self._highest(), came_from),
        )

    def _put_in_place(self, plan: Plan, standing: Standing | None, *, force: bool) -> None:
        root = os.fsencode(self.root)
        if standing:
            now = look_at(root)
            if now.digest != standing.digest:
                raise _written_to(self.model)
            if not force:
                refuse_writers(root, now)  # who began while the version was built
        plan = replace(plan, new_inode=os.lstat(self.staged).st_ino)
        self.journal.write(plan)
        swapper = Swapper(self.journal, plan)
        try:
            if standing:
                swapper.swap()
            else:
                os.rename(self.staged, self.root)
        except OSError as error:
            raise BackupdError(
                f"{self.model.path} cannot be put aside: {error.strerror}",
                hint="the folder is as it was",
            ) from None
        if standing and look_at(os.fsencode(swapper.old)).digest != standing.digest:
            swapper.swap_back()
            raise _written_to(self.model)
        write_head(self.installation, self.model.name, plan.head)
        swapper.discard(self.notes.append)

    def _highest(self) -> int:
        """The highest version there is on any of the model's targets that can be reached."""
        repositories = self.installation.repositories(self.model.targets, failed={})
        host = self.installation.settings.host
        return max(
            repository.highest_version(repository.secrets.model_folder(host, self.model.name))
            for repository in repositories
        )

    def _warn(self, path: bytes, reason: str) -> None:
        self.notes.append(f"{shown(path) or '.'}: {reason}")


def _written_to(model: ModelSettings) -> BackupdError:
    return BackupdError(
        f"{model.path} was written to while the version was made ready",
        hint="the folder is as it was, with what was written; stop what writes, and switch again",
    )
