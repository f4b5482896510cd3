"""Leaks, recognisable, not shown, not tested: from records, for each kind of server, and what a policy makes of it."""

import pytest

from fedspill.auditing.verdict import verdict
from fedspill.auditing.verdict.levels import Rules, is_useful, level
from fedspill.auditing.verdict.roles import Circumstances
from fedspill.core.errors import BadInput
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import PolicySection
from fedspill.report.leakage import rate
from fedspill.report.schema import Verdict, VerdictName
from fedspill.report.trial import Predicted, Reading, Score, SearchForecast, Trial

HONEST, PLANTED = "honest-but-curious", "malicious architecture"


def trial(
    attack: str = "dlg",
    *,
    role: str = HONEST,
    psnr: float = 9.0,
    leaked: bool = False,
    recognisable: bool | None = False,
    update: int = 0,
    converged: bool = True,
    skipped: str | None = None,
    **more: object,
) -> Trial:
    if skipped is not None:
        return Trial(
            name=f"{attack}.u{update}", attack=attack, preset="paper", title=attack, role=role, seed=0, update=update,
            examples=[update], skipped=skipped,
        )  # fmt: skip
    return Trial(
        name=f"{attack}.u{update}",
        attack=attack,
        preset="paper",
        title=attack,
        role=role,
        seed=0,
        update=update,
        examples=[update],
        seconds=2.0,
        converged=converged,
        scores=[Score(metric="psnr", unit="dB", higher_is_closer=True, values=[psnr])],
        leaked=[leaked],
        leakage_rate=rate("psnr >= 20 dB", int(leaked), 1),
        recognisable=None if recognisable is None else [recognisable or leaked],
        **more,  # pyright: ignore[reportArgumentType]
    )


def concluded(*trials: Trial, warnings: tuple[str, ...] = (), **policy: object) -> Verdict:
    rules = Rules(PolicySection.model_validate(policy), judged=True, metric="psnr")
    planted = {"robbing_the_fed:paper": "Robbing the Fed: plants rows."}
    return verdict(trials, rules, Circumstances(assumed=["the labels"], planted=planted, warnings=warnings))


CASES = [
    (trial(leaked=True, psnr=21), "leaks", 1),
    (trial(recognisable=True, psnr=17), "recognisable", 1),
    (trial(), "not shown", 0),
    (trial(converged=False), "not shown", 3),
    (trial(skipped="no linear layer"), "not tested", 3),
    (trial(recognisable=None), "not shown", 3),
]


@pytest.mark.parametrize(("one", "name", "code"), CASES)
def test_the_level_of_one_trial_and_its_exit_code(one: Trial, name: str, code: int) -> None:
    found = concluded(one)
    assert (found.name.value, found.exit_code) == (name, code)


@pytest.mark.parametrize(("one", "name", "code"), CASES)
def test_a_strict_policy_knows_no_3(one: Trial, name: str, code: int) -> None:
    found = concluded(one, strict=True)
    assert (found.name.value, found.exit_code) == (name, 1 if code else 0)


def test_a_strict_policy_fails_by_a_warning_and_says_which() -> None:
    warned = {"warnings": ("fed wrong: pixels of 0 to 255.",)}
    assert concluded(trial(), **warned).exit_code == 0
    strict = concluded(trial(), strict=True, **warned)
    assert strict.exit_code == 1
    assert strict.sentence.endswith("The policy is strict: fed wrong: pixels of 0 to 255.")


@pytest.mark.parametrize(
    ("fails", "codes"),
    [
        (["leaks"], (1, 0, 0)),
        (["recognisable"], (1, 1, 0)),
        (["leaks", "recognisable", "not shown"], (1, 1, 1)),
        ([], (0, 0, 0)),
    ],
)
def test_the_policy_says_which_levels_fail(fails: list[str], codes: tuple[int, ...]) -> None:
    found = [concluded(CASES[k][0], fails=fails) for k in range(3)]
    assert tuple(v.exit_code for v in found) == codes
    assert [v.name.value for v in found] == ["leaks", "recognisable", "not shown"], "a policy changes no fact"


def test_a_share_may_leak_or_be_recognisable() -> None:
    two = [trial(recognisable=True, update=0), trial(update=1)]
    assert [concluded(*two, max_leakage_rate=share).exit_code for share in (0.4, 0.5)] == [1, 0]
    assert concluded(*two, max_leakage_rate=0.5).name is VerdictName.RECOGNISABLE


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(BadInput, match=r"policy\.fails"):
        parse_plan({"policy": {"fails": ["leak"]}})


def test_plans_that_say_nothing_of_it_keep_their_digest() -> None:
    assert PolicySection().model_dump() == {"max_leakage_rate": 0.0, "max_psnr": None, "require_bound": False}
    assert PolicySection(strict=True).model_dump()["strict"] is True


@pytest.mark.parametrize(
    ("more", "useful"),
    [
        ({}, True),
        ({"ended_by_budget": True, "searched": 0.09}, False),
        ({"ended_by_budget": True, "searched": 0.1}, True),
        ({"ended_by_budget": True, "searched": 0.01, "recognisable": True}, True),
        ({"ended_by_budget": True, "iterations": 2, "foreseen": SearchForecast(iterations=4800, seconds=1)}, False),
        ({"ended_by_budget": True, "iterations": 480, "foreseen": SearchForecast(iterations=4800, seconds=1)}, True),
        ({"ended_by_budget": True}, False),
    ],
)
def test_a_search_that_was_ended_early_says_nothing(more: dict[str, object], useful: bool) -> None:
    one = trial(converged=False, **more)  # pyright: ignore[reportArgumentType]
    assert is_useful(one) is useful
    if not more.get("recognisable"):
        found = concluded(one)
        assert (found.name is VerdictName.NOT_TESTED) is not useful
        assert found.exit_code == 3


def test_an_exact_copy_that_was_certified_leaks_though_another_candidate_was_scored() -> None:
    predicted = Predicted(n=1, predicted=1, exact=1, both=1)
    for mark, what, name in (
        ("alone", "examples", "leaks"),
        ("unsure", "examples", "not shown"),
        ("alone", "representations", "not shown"),
    ):
        read = [Reading(origin="bin 1", mark=mark, exact=0)]  # pyright: ignore[reportArgumentType]
        one = trial(readings=read, predicted=predicted.model_copy(update={"what": what}))
        assert concluded(one).name.value == name
    certified_but_wrong = trial(readings=[Reading(origin="bin 1", mark="alone", exact=None)])
    assert concluded(certified_but_wrong).name is VerdictName.NOT_SHOWN


def test_one_verdict_for_each_kind_of_server_with_what_was_planted() -> None:
    honest = [trial("dlg", psnr=9), trial("inverting_gradients", psnr=12), trial("nex", skipped="no ReLU")]
    planted = trial("robbing_the_fed", role=PLANTED, psnr=100, leaked=True, added_parameters=1500)
    found = concluded(planted, *honest)
    first, second = found.by_role
    assert [r.role for r in found.by_role] == [HONEST, PLANTED]
    assert (first.name.value, first.attack, first.planted) == ("not shown", "inverting_gradients:paper", None)
    assert (second.name.value, second.attack) == ("leaks", "robbing_the_fed:paper")
    assert second.planted == "Robbing the Fed: plants rows. (1,500 parameters added)"
    assert (second.worst.value, second.share.hits, second.share.n) == (100, 1, 1)
    assert (first.seconds, second.seconds) == (4.0, 2.0)
    assert first.assumed == ["the labels"]
    assert found.sentence == (
        "This setting leaks to a server that changes the architecture and plants parameters: 1 of 1 private examples"
        " leaked (psnr >= 20 dB), by robbing_the_fed:paper; the policy allows 0%. An honest-but-curious server:"
        " not shown."
    )


def test_the_strongest_attack_is_of_the_highest_level_first() -> None:
    close, seen = trial("dlg", psnr=18, recognisable=False), trial("nex", psnr=15, recognisable=True)
    (role,) = concluded(close, seen).by_role
    assert (role.attack, role.name.value, role.worst.value) == ("nex:paper", "recognisable", 15)


def of_two(attack: str, psnr: list[float], leaked: list[bool]) -> Trial:
    scores = [Score(metric="psnr", unit="dB", higher_is_closer=True, values=[*psnr])]
    changes = {"examples": [0, 1], "scores": scores, "leaked": leaked, "recognisable": leaked}
    return trial(attack).model_copy(update=changes | {"leakage_rate": rate("psnr >= 20 dB", sum(leaked), 2)})


def test_of_attacks_that_came_equally_close_the_strongest_is_the_one_of_most_examples() -> None:
    one, both = of_two("one_shot", [100.0, 9.0], [True, False]), of_two("imprint", [100.0, 100.0], [True, True])
    told = concluded(one, both)
    assert told.by_role[0].attack == "imprint:paper"
    assert "2 of 2 private examples leaked (psnr >= 20 dB), by imprint:paper;" in told.sentence


def test_no_attack_is_said_to_have_shown_what_others_did() -> None:
    told = concluded(of_two("dlg", [90.0, 9.0], [True, False]), of_two("idlg", [9.0, 30.0], [False, True]))
    assert "2 of 2 private examples leaked (psnr >= 20 dB), by dlg:paper and others;" in told.sentence


def test_without_thresholds_nothing_is_judged_but_what_the_policy_limits() -> None:
    loose = Rules(PolicySection(), judged=False, metric="psnr")
    assert level([trial(leaked=True, psnr=40)], loose).name is VerdictName.NOT_SHOWN
    limited = Rules(PolicySection(max_psnr=30), judged=False, metric="psnr")
    found = verdict([trial(psnr=40)], limited, Circumstances())
    assert (found.name.value, found.exit_code) == ("leaks", 1)
    assert "an example was rebuilt at 40.0 dB, by dlg:paper; the policy allows 0%, and 30 dB" in found.sentence


def test_a_client_that_looks_on_is_no_server() -> None:
    found = verdict([trial(leaked=True)], Rules(PolicySection(), True, "psnr"), Circumstances(looker=2))
    assert found.sentence.startswith("This setting leaks to client 2, who looks on: ")
