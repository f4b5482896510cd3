"""The first page: a verdict line for each kind of server in every view, and words that somebody can act on."""

import base64
import io
import re
from dataclasses import dataclass

import pytest
from PIL import Image
from rich.console import Console

from fedspill import catalogue
from fedspill.plan.file import parse_plan, read_plan
from fedspill.rendering import numbers
from fedspill.rendering.drawing.pictures import enlarge, image
from fedspill.rendering.headline import advice as advising
from fedspill.rendering.headline.advice import AUDIT, Advice, advice
from fedspill.rendering.headline.roles import KNOWLEDGE, TITLES, role_rows
from fedspill.rendering.headline.story import meaning, tried
from fedspill.rendering.headline.words import WORDS
from fedspill.rendering.html.page import environment, render
from fedspill.rendering.junit import junit
from fedspill.rendering.markdown import markdown, text_of
from fedspill.rendering.terminal import summary
from fedspill.report.schema import AppliedDefence, AuditReport, Feeding, RoleVerdict, VerdictName, redact
from tests.support.reports import HONEST_SHOWS, HOSTILE, STATES, State, Strict, pairs, report

ROLES = [name for name, state in STATES.items() if state.roles]


def flat(text: str) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def printed(audit: AuditReport) -> str:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    summary(audit, console)
    assert isinstance(console.file, io.StringIO)
    return flat(console.file.getvalue())


def views(audit: AuditReport) -> dict[str, str]:
    shown = re.sub(r"\\(.)", r"\1", markdown(audit))
    page = flat(Strict(render(audit, [])).text)
    return {"terminal": printed(audit), "page": page, "junit": flat(junit(audit)), "markdown": flat(shown)}


@pytest.mark.parametrize("state", ROLES)
@pytest.mark.parametrize("view", ["terminal", "page", "junit", "markdown"])
def test_every_view_has_a_line_for_each_kind_of_server(state: str, view: str) -> None:
    audit = report(STATES[state])
    said = views(audit)[view]
    for verdict in audit.verdict.by_role:
        words = [verdict.role, *(() if verdict.attack is None else (verdict.attack, numbers.duration(verdict.seconds)))]
        words += [verdict.planted] if verdict.planted else []
        words += [KNOWLEDGE[name] for name in verdict.assumed]
        if verdict.worst is not None and verdict.share is not None:
            place = f"{verdict.worst.value:.1f} dB, example {verdict.worst.example} of update {verdict.worst.update}"
            words += [place] if verdict.worst.value < 100 else ["PSNR 100 dB (exact)"]
            words.append(f"{verdict.share.hits} of {verdict.share.n}")
        for word in words:
            assert word in said, (view, word)
        assert WORDS[verdict.name].word.lower() in said.lower()


def test_a_report_without_kinds_of_server_is_drawn_as_before() -> None:
    audit = report(State())
    assert role_rows(audit) == []
    assert "| server |" not in markdown(audit)
    assert "What came out" not in Strict(render(audit, [])).text
    assert "The one example" in Strict(render(audit, pairs(audit)[:1])).text


def test_every_verdict_has_words_and_a_colour_in_light_and_dark() -> None:
    style = environment().get_template("style.css").render()
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    assert set(WORDS) == set(VerdictName)
    assert len({words.style for words in WORDS.values()}) == len({w.colour for w in WORDS.values()}) == len(WORDS)
    for words in WORDS.values():
        for shade in (light, dark):
            assert re.search(rf"^ *\.{words.style}(, \.{words.style}-text)? {{ --strong: #", shade, re.MULTILINE)
    assert all("evidence of safety" in WORDS[n].always for n in (VerdictName.NOT_SHOWN, VerdictName.NOT_TESTED))


def test_each_kind_of_server_shows_its_own_worst_example() -> None:
    audit = report(STATES["by role"])
    shown = [w for v in audit.verdict.by_role if (w := v.worst) is not None]
    drawn = pairs(audit.model_copy(update={"worst": shown, "trials": audit.trials}), side=8)
    page = Strict(render(audit, drawn))
    first = [str(a["src"]).partition(",")[2] for tag, a in page.tags if tag == "img"][:3]
    wanted = [drawn[0].private, drawn[0].rebuilt, drawn[1].private]
    for data, tensor in zip(first, wanted, strict=True):
        assert tensor is not None
        assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == enlarge(image(tensor)).tobytes()
    hidden = render(redact(audit), drawn)
    assert "<img" not in hidden
    assert "is redacted, so no example is shown" in Strict(hidden).text


@dataclass(frozen=True)
class Leak:
    """A kind of server, what came out, and the beginnings of what is advised, in order."""

    role: str
    name: VerdictName
    advised: tuple[str, ...]


LEAKS = [
    Leak("malicious architecture", VerdictName.LEAKS, ("Agree on the network", "Try a defence")),
    Leak("malicious parameters", VerdictName.LEAKS, ("Let clients look at the weights", "Try a defence")),
    Leak("honest-but-curious", VerdictName.LEAKS, ("Add updates up", "Compute each update on more", "Try a defence")),
    Leak("honest-but-curious", VerdictName.RECOGNISABLE, ("Add updates up", "Compute each", "Try a defence")),
    Leak("honest-but-curious", VerdictName.NOT_SHOWN, ("Give the attacks more time",)),
    Leak("honest-but-curious", VerdictName.BOUNDED, ("Measure again when anything changes",)),
]


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: f"{leak.role}-{leak.name.value}")
def test_advice_follows_from_what_leaked_to_whom(leak: Leak) -> None:
    audit = report(State(roles=((leak.role, leak.name),), verdict=leak.name))
    titles = [item.title for item in advice(audit)]
    assert len(titles) == len(leak.advised)
    assert all(title.startswith(begin) for title, begin in zip(titles, leak.advised, strict=True))


def test_advice_names_only_what_there_is_and_commands_that_are_understood(tmp_path) -> None:
    assert catalogue.defences()[advising.FIRST].presets["paper"].cost() is not None
    (tmp_path / "plan.toml").write_text('[audit]\nattacks = ["linear_layer"]\n')
    audit = report(State(roles=((HONEST_SHOWS[0], VerdictName.LEAKS),)))
    commands = [item.command for item in advice(audit)]
    for command in commands[:2]:
        begin, *settings = command.split(" --set ")
        assert begin == AUDIT
        read_plan(tmp_path / "plan.toml", settings)
    (tmp_path / "more.toml").write_text(commands[2])
    assert read_plan(tmp_path / "more.toml").defences[0].name == advising.FIRST
    parse_plan({"audit": {"budget": "1h"}})


def test_what_is_advised_was_not_done_already() -> None:
    audit = report(State(num_examples=64, roles=(HONEST_SHOWS,)))
    done = audit.model_copy(update={"plan": {"client": {"clients": 8}}})
    assert [item.title[:13] for item in advice(done)] == ["Try a defence"]
    every = [AppliedDefence(name=n, preset="paper", title=n, fields={}) for n in catalogue.defences()]
    assert [a.title for a in advice(done.model_copy(update={"defences": every}))] == [
        "Strengthen the clients' defences"
    ]
    some = advice(done.model_copy(update={"defences": every[:1]}))[0].text
    assert (
        f"This version has {', '.join(list(catalogue.defences())[1:])}. {every[0].name} did not suffice here." in some
    )


def test_a_network_that_is_fed_wrong_comes_first_and_skips_are_told() -> None:
    audit = report(STATES["not tested"])
    assert [item.title for item in advice(audit)] == ["Let the attacks run"]
    fed = audit.model_copy(update={"feeding": Feeding(n=4, warning="The pixels are fed in [0, 255].")})
    assert advice(fed)[0] == Advice(advising._feeding(fed)[0].title, "The pixels are fed in [0, 255].")  # pyright: ignore
    ended = report(State(verdict=VerdictName.NOT_SHOWN, limit=90.0))
    through = [t.model_copy(update={"converged": True}) for t in ended.trials if t.skipped is None]
    quiet = ended.model_copy(update={"trials": through})
    assert [item.title for item in advice(quiet)] == ["Measure again when anything changes"]


@pytest.mark.parametrize("name", VerdictName, ids=lambda name: name.value)
@pytest.mark.parametrize("by_role", [True, False])
def test_only_a_leak_is_called_one(name: VerdictName, by_role: bool) -> None:
    roles = ((HONEST_SHOWS[0], name),) if by_role else None
    said = " ".join(meaning(report(State(verdict=name, roles=roles))))
    assert ("private data leaked" in said or "can have private data" in said) is (name is VerdictName.LEAKS)
    assert ("not evidence of safety" in said or "nothing is known" in said) is (name.value.startswith("not "))
    assert TITLES[HONEST_SHOWS[0]] in said or not by_role


def test_what_was_tried_counts_what_ran() -> None:
    said = " ".join(tried(report(State(updates=2, num_examples=4))))
    assert "8 private examples from 2 updates (4 in each)" in said
    assert "Robbing the Fed, Inverting Gradients, Deep Leakage from Gradients." in said
    assert "(one in each)" in " ".join(tried(report(State(num_examples=1))))
    assert "could run none of the attacks" in " ".join(tried(report(STATES["all skipped"])))


def test_a_role_that_nobody_knows_is_named_as_it_is() -> None:
    odd = RoleVerdict(role="<b>space</b>", name=VerdictName.LEAKS, attack="a|b:c", assumed=["what it|heard"], seconds=1)
    audit = report(State())
    audit = audit.model_copy(update={"verdict": audit.verdict.model_copy(update={"by_role": [odd]})})
    assert "a server of <b>space</b>" in Strict(render(audit, [])).text
    row = next(line for line in markdown(audit).splitlines() if "space" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 9
    assert "<b>" not in row.replace(r"\<", "")
    assert "a|b:c" in printed(audit)


def test_any_text_is_one_line_of_markdown() -> None:
    for text in (HOSTILE, "a\n# b\n| c | d |", "[x](javascript:1) @someone ~~no~~ `code`"):
        written = text_of(text)
        assert len(written.splitlines()) == 1
        assert re.sub(r"\\(.)", r"\1", written) == " ".join(
            "".join(c if c.isprintable() else " " for c in text).split()
        )
        assert not re.search(r"(?<!\\)[`*_\[\]<>|~@#]", written)


def test_no_table_is_cut_where_it_is_narrow() -> None:
    page = render(report(STATES["by role"]), [])
    cells = re.findall(r"<td[^>]*>", page)
    assert cells
    assert [cell for cell in cells if "data-label" not in cell] == []
    assert len(re.findall(r'class="table broad', page)) == 3
    style = environment().get_template("style.css").render()
    for table, width in ((".broad", 980), (".table", 620)):
        rule = style.partition(f"@media screen and (max-width: {width}px)")[2]
        assert f"{table} td::before {{ content: attr(data-label);" in rule.partition("@media")[0]
