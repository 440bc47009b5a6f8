"""Rules for data sets: the list that TRL and Axolotl write alike, and TRL's single one."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rmexp.tasks.convert.settings import VALUE_TYPES, PeerSettings

BUILDERS = ("json", "csv", "parquet", "text", "arrow")  # in place of a path, with data_files
REASONS = {
    "name": "save the rows of this configuration as a file, which is then the path",
    "split": "a file is read whole (data.limit takes its first rows)",
    "fraction": "see data.weights and data.limit",
    "data_files": "rows come from one file: join them",
}
Entry = dict[str, Any]


def convert_datasets(s: PeerSettings) -> None:
    """Convert `datasets`: one is `data=jsonl`; several are `data=mix`, each row once."""
    entries, ours = s.take("datasets"), "data"
    s.put("data", "jsonl" if len(entries) == 1 else "mix", "datasets")
    for key, path, more in _read(s, "datasets", entries):
        if len(entries) > 1:
            ours = f"data.sources.{_free_name(s, path)}"
            s.put(f"data@{ours}", "jsonl", note=key)
        s.put(f"{ours}.path", path, note=key)
        kind = more.pop("type", None)
        if kind == "bradley_terry.chat_template":  # its columns are input and system
            s.put(f"{ours}.fields.prompt", "input", note=f"{key}.type {kind}")
            s.put(f"{ours}.fields.system_prompt", "system", note=f"{key}.type {kind}")
        elif kind is not None:
            s.leave(f"{key}.type", f"{kind}: the form of rows is detected from their columns")
        if len(entries) == 1:
            more.pop("chat_template", None)  # Axolotl's, which overrides the key chat_template
        for name in more:
            s.leave(f"{key}.{name}", REASONS.get(name, "not known"))
    first = next(key for key in s.lines if key.startswith("data.") and key.endswith(".path"))
    for key, path, _ in _read(s, "test_datasets", s.take("test_datasets") or []):
        if key == "test_datasets[0]":  # rmexp selects the weights on it
            s.put(f"{first.removesuffix('path')}val_path", path, note=key)
        else:
            s.leave(key, "there is one source of validation rows")


def convert_splits(s: PeerSettings, evaluates: bool) -> None:
    """Convert TRL's single data set; its path names the splits that are not train and test."""
    path, train = s.value("data.path") or "", s.take("dataset_train_split") or "train"
    test = s.take("dataset_test_split") or "test"
    if path:
        s.put("data", "jsonl", "dataset_name")
    splits = [("data.path", "dataset_train_split", train)] if train != "train" else []
    if evaluates and (train, test) != ("train", "test"):
        splits.append(("data.val_path", "dataset_test_split", test))
    for ours, name, split in splits:
        if _is_hub_id(path):
            s.put(ours, f"{path}:{split}", name)
        else:
            s.leave(name, f"save its rows as a file and give that as {ours}")


def _read(s: PeerSettings, name: str, entries: list[Any]) -> Iterator[tuple[str, str, Entry]]:
    """The key of each data set, its file, hub id or part of a hub id, and what else it says."""
    for number, entry in enumerate(entries):
        key = f"{name}[{number}]"
        more = {k: v for k, v in s.check(key, entry, Mapping[str, Any]).items() if v is not None}
        path = s.check(f"{key}.path", more.pop("path", None), str)
        files = s.check(f"{key}.data_files", more.get("data_files", []), VALUE_TYPES["names"])
        more.pop("ds_type", None)
        if more.get("split") == "train":
            del more["split"]
        if len(files) == 1:
            del more["data_files"]
            alone = path in (*BUILDERS, files[0])
            path = files[0] if alone else f"{path}{':' if _is_hub_id(path) else '/'}{files[0]}"
        elif not files and "split" in more and _is_hub_id(path):
            path = f"{path}:{more.pop('split')}"
        yield key, path, more


def _is_hub_id(path: str) -> bool:
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", path))


def _free_name(s: PeerSettings, path: str) -> str:
    """A valid key of Hydra's for a source of the mixture, which no other source has."""
    stem = Path(path.partition(":")[0]).name.split(".")[0].lower()
    name = re.sub(r"\W+", "_", stem, flags=re.ASCII).strip("_")
    name = name if name[:1].isalpha() else f"rows_{name}"
    names = [name, *(f"{name}_{number}" for number in range(2, 1000))]
    return next(name for name in names if f"data@data.sources.{name}" not in s.lines)
