"""A data set's description through ``qamro-extract --dataset x.toml --dry-run``."""

import json
import random
from pathlib import Path
from typing import Any

from qamro_cache_cli.extract import main as extract_command

from fuzz.commands import run
from fuzz.harness import Door
from fuzz.mutate_toml import hostile_toml

#: A description that is right, with every kind of table and value.
DESCRIPTION: dict[str, Any] = {
    "name": "mine",
    "title": "a set",
    "license": "CC0",
    "source": "https://example.org",
    "audio": ["audio/{clip_id}.wav", "{page}/{clip_id}.wav"],
    "notes": ["made up"],
    "group_kind": "page",
    "only_present": False,
    "axes": [{"name": "quality", "low": 1, "high": 5}, {"name": "match", "low": 0, "high": 100.0}],
    "published": {"clips": {"train": 3}, "systems": 2, "steps": {"quality": 0.5}},
    "clips": [
        {
            "path": ["lists/train.csv", "train.csv"],
            "split": "train",
            "scores": {"quality": "mos", "match": "fit"},
            "stds": {"quality": "std"},
            "counts": {"quality": "n"},
            "fields": {"clip_id": "{stem}", "group": "{page}", "key": "{stem}"},
            "extract": [{"source": "{file}", "pattern": "^(?P<stem>(?P<system>[^_]+)_.+)[.]wav$"}],
            "only": {"source": "{page}", "pattern": "p"},
        },
        {
            "path": "lists/*.jsonl",
            "format": "jsonl",
            "optional": True,
            "needs_audio": True,
            "count": 3,
            "raters": True,
            "scores": {"quality": "votes"},
            "fields": {"clip_id": "{id}"},
        },
    ],
    "ratings": [
        {
            "path": ["ratings.tsv"],
            "format": "tsv",
            "columns": ["file", "who", "axis", "score"],
            "score": "score",
            "fields": {"key": "{file}", "rater": "{who}", "axis": "{axis}"},
        }
    ],
    "prompts": [
        {"path": ["prompts.tsv"], "id": "id", "text": "text", "key": "{page}", "systems": ["A"]}
    ],
    "system_scores": {"path": ["systems.csv"], "system": "system", "scores": {"quality": "mos"}},
}
FILES = {
    "lists/train.csv": "file,page,mos,fit,std,n\nA_1.wav,p1,3.5,70,1,4\nA_2.wav,p2,2,30,.5,4\n"
    "B_1.wav,p1,5,90,0,4\nB_2.wav,q,1,1,1,1\n",
    "lists/more.jsonl": '{"id": "C_1", "votes": [1, 2, 3], "page": "p1"}\n'
    '{"id": "C_2", "votes": [4, 5.0], "page": "p2"}\n',
    "ratings.tsv": "A_1\tann\tquality\t3\nA_1\tbo\tquality\t4\nB_1\tann\tmatch\t90\n",
    "prompts.tsv": "id\ttext\np1\ta bell, ringing\np2\train\n",
    "systems.csv": "system,mos\nA,2.7\nB,5\n",
}


def prepare(folder: Path) -> None:
    (folder / "lists").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)


def load(folder: Path) -> Path:
    path = folder / "good.toml"
    path.write_bytes(hostile_toml(DESCRIPTION, _Never()))
    code, found = dry_run(path, folder)
    assert (code, json.loads(found)["clips"]) == (0, 5), found
    return folder


class _Never(random.Random):
    """Chooses that nothing goes wrong."""

    def random(self) -> float:
        return 1.0


def case(good: Path, choose: random.Random, place: Path) -> str:
    (place / "x.toml").write_bytes(hostile_toml(DESCRIPTION, choose))
    code, _ = dry_run(place / "x.toml", good, as_json=choose.random() < 0.8)
    return "refused" if code else "taken"


def dry_run(path: Path, folder: Path, *, as_json: bool = True) -> tuple[int, str]:
    arguments = ["--dataset", path, "--data-dir", folder, "--dry-run"]
    return run(extract_command, *arguments, *(["--json"] if as_json else []))


DOOR = Door("datasets", prepare, load, case)
