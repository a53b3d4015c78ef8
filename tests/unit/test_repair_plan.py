"""What a repair decides, from values alone."""

from __future__ import annotations

from blake3 import blake3

from backupd.repository.layout import pack_name
from backupd.repository.one_bit import with_one_bit_right
from backupd.repository.repair_plan import (
    HERE,
    Damage,
    Offers,
    PackDamage,
    Verb,
    plan_repair,
)

A, B, C = bytes(32), b"b" * 32, b"c" * 32


def damaged(pack_id: bytes, *, marked: bool = False) -> PackDamage:
    return PackDamage(pack_id, "is missing", marked)


def test_a_pack_comes_back_under_its_name_where_another_target_has_it() -> None:
    plan = plan_repair(Damage(packs=[damaged(A), damaged(B)]), Offers(packs={A: ["nas", "s3"]}))
    (replaced,) = plan.of(Verb.REPLACE)
    assert replaced.object_name == pack_name(A)
    assert replaced.sources == ("nas", "s3")
    assert [action.object_name for action in plan.of(Verb.REWRITE)] == [pack_name(B)]


def test_a_pack_that_is_marked_already_is_left_to_prune() -> None:
    plan = plan_repair(Damage(packs=[damaged(A, marked=True)]), Offers(packs={A: ["nas"]}))
    assert plan.actions == ()


def test_what_comes_back_with_its_pack_is_not_stored_once_more() -> None:
    damage = Damage(packs=[damaged(A)], blobs=[B, C], homes={B: frozenset([A])})
    plan = plan_repair(damage, Offers(packs={A: ["nas"]}, blobs={B: ["nas"], C: ["nas"]}))
    assert [action.blobs for action in plan.of(Verb.STORE)] == [(C,)]


def test_blobs_that_nobody_has_are_lost_and_the_others_are_stored() -> None:
    plan = plan_repair(Damage(blobs=[A, B, C]), Offers(blobs={A: [HERE], C: ["nas"]}))
    assert {action.sources: action.blobs for action in plan.of(Verb.STORE)} == {
        (HERE,): (A,),
        ("nas",): (C,),
    }
    assert plan.lost_blobs == (B,)


def test_a_damaged_index_is_dropped_only_after_it_was_written_anew() -> None:
    plan = plan_repair(Damage(objects={"index/aa": "is damaged"}, unnamed=3), Offers())
    verbs = [action.verb for action in plan.actions]
    assert verbs == [Verb.INDEX, Verb.DROP]
    assert not plan.lost_objects


def test_snapshots_come_back_after_what_they_need_and_a_lost_one_is_named() -> None:
    objects = {"snapshots/aa/0000000001": "is damaged", "snapshots/aa/0000000002": "is damaged"}
    damage = Damage(packs=[damaged(A)], blobs=[B], objects=objects)
    offers = Offers(
        packs={A: ["s3"]}, blobs={B: ["s3"]}, objects={"snapshots/aa/0000000001": ["s3"]}
    )
    plan = plan_repair(damage, offers)
    assert [action.object_name.partition("/")[0] for action in plan.actions] == [
        "packs",
        "packs",
        "snapshots",
    ]
    assert plan.lost_objects == ("snapshots/aa/0000000002",)


def test_labels_that_later_ones_replaced_are_dropped() -> None:
    name = "snapshots/aa/0000000001+000001"
    damage = Damage(objects={name: "is damaged"}, superseded=frozenset({name}))
    plan = plan_repair(damage, Offers())
    assert [(action.verb, action.object_name) for action in plan.actions] == [(Verb.DROP, name)]


def test_one_flipped_bit_is_found_wherever_it_is() -> None:
    right = bytes(range(200))
    wanted = blake3(right).digest()
    for at in (0, 77, 199):
        wrong = bytearray(right)
        wrong[at] ^= 16
        found = with_one_bit_right(bytes(wrong), lambda tried: blake3(tried).digest() == wanted)
        assert found == right


def test_two_flipped_bits_and_long_objects_are_given_up() -> None:
    right = bytes(range(50))
    wanted = blake3(right).digest()
    wrong = bytearray(right)
    wrong[3] ^= 1
    wrong[9] ^= 1
    assert with_one_bit_right(bytes(wrong), lambda tried: blake3(tried).digest() == wanted) is None
    assert with_one_bit_right(bytes(5000), lambda tried: True) is None
