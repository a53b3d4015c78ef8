"""Files that are whole only together, from the names and the small files that tell."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from backupd.capture.containers.bounded import BoundedFile
from backupd.capture.wholeness.sets import CheckpointSet, Folder, Member, judge_sets, spread
from backupd.capture.wholeness.verdict import Judgement, Verdict

Files = dict[str, tuple[bytes, int]]
"""Content and mtime by path."""


def folders_of(files: Files, known: bool = False) -> dict[bytes, Folder]:
    found: dict[bytes, dict[bytes, Member]] = {}
    for path, (content, mtime) in files.items():
        above, _, name = path.rpartition("/")
        member = Member(path.encode(), len(content), mtime, True, known)
        found.setdefault(above.encode(), {})[name.encode()] = member
    return dict(found)


def judged(files: Files, known: bool = False) -> list[CheckpointSet]:
    def read(path: bytes) -> BoundedFile | None:
        found = files.get(path.decode())
        if found is None:
            return None
        data = found[0]
        return BoundedFile(lambda offset, length: data[offset : offset + length], len(data))

    return judge_sets(folders_of(files, known), read)


def worst(files: Files, known: bool = False) -> Judgement:
    order = [Verdict.WHOLE, Verdict.DOUBTFUL, Verdict.TORN]
    return max((s.judgement for s in judged(files, known)), key=lambda j: order.index(j.verdict))


def shards(*numbers: int, index: int | None = 9, of: int = 3) -> Files:
    files: Files = {f"model-{n:05d}-of-{of:05d}.safetensors": (b"x", n) for n in numbers}
    if index is not None:
        weights = {f"w{n}": f"model-{n:05d}-of-{of:05d}.safetensors" for n in range(1, of + 1)}
        text = json.dumps({"metadata": {}, "weight_map": weights}).encode()
        files["model.safetensors.index.json"] = (text, index)
    return files


def test_a_sharded_model_is_whole_with_all_its_shards_and_its_index() -> None:
    assert worst(shards(1, 2, 3)).verdict is Verdict.WHOLE
    assert "lacks 1 of its 3 shards" in worst(shards(1, 3)).reason
    assert worst(shards(1, 2, 3, index=None)).verdict is Verdict.DOUBTFUL
    assert worst(shards(1, 2, 3, index=2)).verdict is Verdict.DOUBTFUL


def test_an_index_that_names_what_is_not_there_is_torn() -> None:
    text = json.dumps({"weight_map": {"w": "other.safetensors"}}).encode()
    assert "other.safetensors" in worst({"m.safetensors.index.json": (text, 1)}).reason
    assert "does not end" in worst({"m.safetensors.index.json": (text[:-5], 1)}).reason


def test_an_index_that_names_half_a_character_lacks_that_shard() -> None:
    text = b'{"weight_map": {"w": "\\ud800"}}'
    assert "lacks the shard" in worst({"m.safetensors.index.json": (text, 1)}).reason


def test_json_of_very_many_values_is_not_parsed() -> None:
    text = b'{"weight_map": {"w": "gone"}, "x": [' + b"[]," * 1_000_000 + b"0]}"
    tracemalloc.start()
    assert worst({"m.safetensors.index.json": (text, 1)}).verdict is Verdict.WHOLE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(text), peak


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "rng_state.pth"])
def test_a_trainers_folder_is_torn_until_its_state_is_written(name: str) -> None:
    files: Files = {f"checkpoint-5/{name}": (b"x", 1), "checkpoint-5/model.safetensors": (b"x", 1)}
    assert worst(files).verdict is Verdict.TORN
    files["checkpoint-5/trainer_state.json"] = (b'{"global_step": 5}', 2)
    assert worst(files).verdict is Verdict.WHOLE
    files["checkpoint-5/trainer_state.json"] = (b'{"global_st', 2)
    assert worst(files).verdict is Verdict.TORN
    files["checkpoint-5/trainer_state.json"] = (b'{"global_step": 5}', 0)
    assert worst(files).verdict is Verdict.DOUBTFUL


def test_somebody_elses_folder_of_that_name_is_only_doubtful() -> None:
    assert worst({"checkpoint-5/model.safetensors": (b"x", 1)}).verdict is Verdict.DOUBTFUL


def test_deepspeed_needs_every_rank_and_the_file_latest() -> None:
    ranks: Files = {
        f"step5/zero_pp_rank_{n}_mp_rank_00_optim_states.pt": (b"x", 1) for n in range(3)
    }
    ranks["step5/mp_rank_00_model_states.pt"] = (b"x", 1)
    assert worst(ranks).verdict is Verdict.DOUBTFUL
    assert worst({**ranks, "latest": (b"step5", 2)}).verdict is Verdict.WHOLE
    assert worst({**ranks, "latest": (b"step4", 0)}).verdict is Verdict.TORN
    assert worst({**ranks, "latest": (b"step6\n", 2)}).verdict is Verdict.WHOLE
    del ranks["step5/zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    assert "rank" in worst({**ranks, "latest": (b"step5", 2)}).reason


def test_a_distributed_checkpoint_ends_with_its_metadata() -> None:
    files: Files = {"c/__0_0.distcp": (b"x", 1), "c/__1_0.distcp": (b"x", 1)}
    assert worst(files).verdict is Verdict.TORN
    assert worst({**files, "c/.metadata": (b"x", 2)}).verdict is Verdict.WHOLE
    assert worst({**files, "c/.metadata": (b"x", 0)}).verdict is Verdict.DOUBTFUL


def test_tensorflow_data_needs_its_index_and_a_saved_model_its_graph() -> None:
    files: Files = {"m/variables/variables.data-00000-of-00001": (b"x", 1)}
    assert worst(files).verdict is Verdict.TORN
    assert worst({**files, "m/variables/variables.index": (b"x" * 60, 1)}).verdict is Verdict.TORN
    reasons = [s.judgement.reason for s in judged(files)]
    assert any("saved_model.pb" in reason for reason in reasons)


def test_one_torn_member_makes_every_member_torn_and_the_folder() -> None:
    files = {
        **{f"checkpoint-5/{name}": value for name, value in shards(1, 3).items()},
        "checkpoint-5/trainer_state.json": (b"{}", 20),
        "checkpoint-5/optimizer.pt": (b"x", 1),
    }
    paths, folders = spread({}, judged(files))
    assert paths.keys() == {path.encode() for path in files}
    assert all("belongs to a checkpoint that lacks" in j.reason for j in paths.values())
    assert folders.keys() == {b"checkpoint-5"}


def test_a_set_without_a_new_member_is_left_alone() -> None:
    old = {
        path: {name: member._replace(changed=False) for name, member in folder.items()}
        for path, folder in folders_of(shards(1, 3)).items()
    }
    assert judge_sets(old, lambda path: None) == []


def test_what_comes_last_is_older_only_after_a_save_that_was_cut_short_or_a_copy() -> None:
    """Over a checkpoint that the snapshot before has, nobody copies: a save was killed."""
    for files in (
        shards(1, 2, 3, index=2),
        {"c/__0_0.distcp": (b"x", 1), "c/.metadata": (b"x", 0)},
    ):
        assert worst(files).verdict is Verdict.DOUBTFUL
        assert worst(files, known=True).verdict is Verdict.TORN


def test_what_comes_last_alone_is_a_checkpoint_that_is_being_deleted() -> None:
    folders = folders_of({"c/.metadata": (b"x", 1), "ckpt.index": (b"x", 1)}, known=True)
    lost = {b"c": {b"__0_0.distcp"}, b"": {b"ckpt.data-00000-of-00001"}}
    found = judge_sets(folders, lambda path: None, lost)
    assert [one.judgement.reason for one in found] == ["has lost its data"] * 2
    assert not judge_sets(folders, lambda path: None)
    saved_anew = {
        path: {name: member._replace(rewritten=True) for name, member in folder.items()}
        for path, folder in folders.items()
    }
    assert not judge_sets(saved_anew, lambda path: None, lost), "by fewer ranks"
