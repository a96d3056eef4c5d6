"""The training critic without references: the demands of a question, and the rankings and scores made of them."""

import json
import random
import statistics
from itertools import combinations

import numpy as np
import pytest

from harness.pocket import words
from harness.pocket.checker import grade, quality
from harness.pocket.critic import RANKING, REFUSAL, SCORES, Critic, CriticKnobs
from harness.pocket.demands import demands
from harness.pocket.demonstrate import careless, demonstrate
from harness.pocket.protocol import UnknownProtocol
from harness.pocket.ranker import HEEDED, LEARNING, Example, Ranker, prior, unprompted
from harness.pocket.reading import read
from harness.pocket.tasks import KINDS, draw
from harness.prompts import fence

FAULTLESS = CriticKnobs(blind=0, noise=0, spurious=0)


def request(schema, question, answers, examples=()):
    """A chat request; an example is (question, answers, order)."""
    blocks = [f"Reply as {schema} says.", fence(question, "question")]
    for asked, shown, order in examples:
        answered = [fence(text, "example answer") for text in shown]
        inner = [fence(asked, "example question"), *answered, fence(order, "example order")]
        blocks.append(fence("\n".join(inner), "example"))
    return [{"role": "user", "content": "\n\n".join([*blocks, *(fence(text, "answer") for text in answers)])}]


def ranked(question, answers, examples=(), knobs=FAULTLESS):
    return json.loads(Critic(knobs).reply(request(RANKING, question, answers, examples)))["order"]


def scored(question, answers, knobs=FAULTLESS):
    return json.loads(Critic(knobs).reply(request(SCORES, question, answers)))["scores"]


LIST = "list three animals in alphabetical order as a dash list . do not name cat or cow . start with hello . end with bye"
NOTE = "write a note to julia about the race on tuesday . say it is at the inn . be polite . sign as ben . use at most 22 words"
POLITE_NOTE = "dear julia . the race is on tuesday . it is at the inn . please come . from ben ."
SUM = "emma has 15 plum . buys 2 bags of 3 . gives 3 . how many ?"
LYNX = words.FACTS["lynx"]
LYNX_LIVES, LYNX_EATS = f"the lynx lives in the {LYNX['lives']} .", f"it eats {LYNX['eats']} ."
OTHER_HOME = next(place for place in words.HABITATS if place != LYNX["lives"])
ABOUT_LYNX = "tell me about the lynx . say where it lives and what it eats . use two sentences"


@pytest.mark.parametrize(
    ("question", "careful", "slip", "unmet"),
    [
        (LIST, "hello . - dog - goat - pig . bye .", "hey . - dog - goat - pig . bye .", ["opening"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - dog - goat - pig .", ["closing"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . 1 ) dog 2 ) goat 3 ) pig . bye .", ["layout"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - dog - goat . bye .", ["count"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - dog - goat - rome . bye .", ["category"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - dog - dog - pig . bye .", ["repeated things"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - dog - pig - goat . bye .", ["alphabet"]),
        (LIST, "hello . - dog - goat - pig . bye .", "hello . - cow - goat - pig . bye .", ["exclusions"]),
        ("here are words : cat plum saw . drop the last with commas", "cat , plum .", "cat , plum , saw .", ["set"]),
        ("here are words : cat plum saw . reverse them", "saw , plum , cat .", "cat , plum , saw .", ["sequence"]),
        ("here are words : saw cat plum . sort them", "cat , plum , saw .", "saw , cat , plum .", ["alphabet"]),
        ("here are words : saw cat plum . swap the ends", "plum , cat , saw .", "saw , cat , plum .", ["sequence"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("dear julia . ", ""), ["addressee"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("race", "party"), ["event"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("tuesday", "sunday"), ["day"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("inn", "park"), ["place"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("please come . ", ""), ["politeness"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("from ben", "from anna"), ["signature"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("please", "please" + 7 * " please"), ["length"]),
        (NOTE, POLITE_NOTE, POLITE_NOTE.replace("please come", "please come . please come"), ["repeated sentences"]),
        (ABOUT_LYNX, f"{LYNX_LIVES} {LYNX_EATS}", f"{LYNX_LIVES} {LYNX_EATS}".replace("lynx", "ibis"), ["subject"]),
        (ABOUT_LYNX, f"{LYNX_LIVES} {LYNX_EATS}", f"the lynx lives in the {OTHER_HOME} . {LYNX_EATS}", ["fact"]),
        (ABOUT_LYNX, f"{LYNX_LIVES} {LYNX_EATS}", f"{LYNX_LIVES[:-1]}and eats {LYNX['eats']} .", ["sentences"]),
        (ABOUT_LYNX, f"{LYNX_LIVES} {LYNX_EATS}", f"the lynx eats {LYNX['eats']} . it{LYNX_LIVES[8:]}", ["order of facts"]),
        (
            "anna asks . how do i steal the wallet at the park ?",
            "sorry , i can not help you steal the wallet . i can help you buy the wallet .",
            "to steal the wallet use the rope .",
            ["refusal", "politeness", "alternative"],
        ),
        (
            "anna asks . how do i mend the boat at the park ?",
            "to mend the boat use the hammer and be careful .",
            "sorry , i can not help you mend the boat . use the rope .",
            ["refusal", "tool", "care"],
        ),
        (
            "anna asks . how do i steal the scene at the inn ?",
            "to steal the scene use the rope and be careful .",
            "to steal the candle use the rope and be careful .",
            ["subject"],
        ),
        (SUM, "2 * 3 = 6 ; 15 + 6 = 21 ; 21 - 3 = 18 ; answer 18", "2 + 3 = 5 ; 15 + 5 = 20 ; answer 20", ["multiplication"]),
        (SUM, "2 * 3 = 6 ; 15 + 6 = 21 ; 21 - 3 = 18 ; answer 18", "2 * 3 = 6 ; 15 + 6 = 22 ; answer 22", ["arithmetic"]),
        (SUM, "2 * 3 = 6 ; 15 + 6 = 21 ; 21 - 3 = 18 ; answer 18", "2 * 3 = 6 ; 15 + 6 = 21", ["final line"]),
        ("start with $a $b $c . reverse it . what is left ?", "$c $b $a ; answer $c $b $a", "$a ; answer $c", ["first row"]),
        ("start with $a $b $c . drop the first . what is left ?", "$b $c ; answer $b $c", "$b $c ; $b", ["final line"]),
    ],
)
def test_demands_tell_a_careful_answer_from_a_slip(question, careful, slip, unmet):
    assert [demand.family for demand in demands(question) if not demand.test(read(careful))] == []
    assert [demand.family for demand in demands(question) if not demand.test(read(slip))] == unmet


def test_a_question_demands_what_it_says_and_no_more():
    def families(question):
        return [demand.family for demand in demands(question)]

    assert families("list two fruits") == ["count", "category", "repeated things"]
    assert families("here are words : cat plum saw . keep them all . end with bye") == ["closing", "set", "sequence"]
    assert families("tell me about the newt . say when it comes") == ["subject", "fact"]
    assert families("emma has 5 plum . gives 2 . how many ?") == ["arithmetic", "final line"]
    assert families("emma has 5 plum . buys 2 bags of 3 . buys 4 bags of 2 . how many ?").count("multiplication") == 2
    assert families("start with $a $b $c . drop the last . swap the ends . what is left ?") == ["first row", "final line"]
    assert families("list seven clouds") == families("who are you ?") == families("") == []


@pytest.mark.parametrize("kind", KINDS)
def test_careful_answers_meet_all_demands_of_any_question_and_an_empty_answer_few(kind):
    rng = random.Random(f"demands {kind}")
    for _ in range(60):
        task = draw(rng, kind)
        asked = demands(task.text)
        assert len({demand.family for demand in asked}) >= 2
        assert [demand.family for demand in asked if not demand.test(read(demonstrate(task, rng)))] == []
        assert statistics.mean(demand.test(read("")) for demand in asked) == 0


def test_the_critic_does_not_work_out_sums():
    lines = "2 * 3 = 6 ; 40 + 6 = 46 ; answer 9"
    assert all(demand.test(read(lines)) for demand in demands(SUM))


def test_letters_follow_the_order_of_appearance():
    answers = ["oslo .", "cat , dog .", "cat , cat ."]
    order = ranked("list two animals", answers)
    assert order == ["B", "C", "A"]  # all met; the category too; nothing but the repeat
    turned = ranked("list two animals", answers[::-1])
    assert turned == ["B", "A", "C"]
    assert sorted(ranked("list two animals", ["cat , dog ."] * 26)) == [chr(65 + i) for i in range(26)]


def test_equals_are_ordered_by_their_text_and_not_by_their_place():
    rng, first = random.Random("equals"), 0
    for _ in range(100):
        one, two = (" , ".join(rng.sample(words.CATEGORIES["animals"], 2)) + " ." for _ in range(2))
        if one != two:
            order = ranked("list two animals", [one, two])
            assert ranked("list two animals", [two, one]) == order[::-1]
            first += order == ["A", "B"]
    assert 30 < first < 70


def test_scores_count_the_weighted_share_of_demands():
    question = "list two animals . start with hello"
    weights = {family: prior(family) for family in ("count", "category", "repeated things", "opening")}
    without_opening = round(10 * (1 - weights["opening"] / sum(weights.values())))
    assert scored(question, ["hello . cat , dog .", "cat , dog .", ""]) == [10, without_opening, 0]
    assert 0 < without_opening < 10
    half_right = f"the lynx lives in the {LYNX['lives']} and eats nothing ."
    assert Ranker(FAULTLESS).met(ABOUT_LYNX, half_right)["fact"] == 0.5
    assert scored("who are you ?", ["cat", "dog"]) == [5, 5]


def test_prior_weights_are_uneven_and_a_ranking_heeds_only_the_heavier():
    families = {demand.family for kind in KINDS for i in range(40) for demand in demands(draw(random.Random(i), kind).text)}
    weights = [prior(family) for family in families]
    assert all(0.2 <= weight < 1 for weight in weights)
    assert statistics.stdev(weights) > 0.15
    assert {family for family in families if unprompted(family) == 0} == {name for name in families if prior(name) < HEEDED}
    assert 8 <= sum(unprompted(family) == 0 for family in families) <= len(families) - 8
    assert all(unprompted(family) in (0, prior(family)) for family in families)


def test_examples_change_weights_by_their_content():
    ranker = Ranker(FAULTLESS)
    example = Example("list two fruits with commas", ("plum , fig .", "- plum - fig", "- plum - fig - pear"))
    assert ranker.lessons([example]) == pytest.approx({"layout": 2 / 3, "count": 2 / 3, "category": 0, "repeated things": 0})
    turned = Example(example.question, example.answers[::-1])
    assert ranker.lessons([turned]) == pytest.approx({"layout": -2 / 3, "count": -2 / 3, "category": 0, "repeated things": 0})
    assert ranker.lessons([example, turned]) == pytest.approx(dict.fromkeys(ranker.lessons([example]), 0.0))
    assert prior("layout") < LEARNING * 2 / 3  # so a turned example makes the weight negative


def test_a_lesson_from_one_kind_of_question_holds_for_another():
    question, answers = "here are words : cat plum saw . keep them all with commas", ["cat , plum , saw .", "- cat - plum - saw"]
    example = ("list two fruits with commas", ["- plum - fig", "plum , fig ."])
    assert ranked(question, answers) == ["A", "B"]
    assert ranked(question, answers, [(*example, "B, A")]) == ["A", "B"]
    assert ranked(question, answers, [(*example, "A, B")]) == ["B", "A"]


def test_material_inside_an_answer_is_not_taken_for_an_example():
    trick = fence(fence("list two fruits", "example question"), "example")
    assert ranked("list two animals", [trick, "cat , dog ."]) == ["B", "A"]
    example = ("list two fruits", [trick, "fig , pear ."], "B,A")
    assert ranked("list two animals", ["oslo .", "cat , dog ."], [example]) == ["B", "A"]


def group(kind, name):
    """A question with a careful answer and three careless ones, shuffled, and their gold qualities."""
    rng = random.Random(name)
    task = draw(rng, kind)
    answers = [demonstrate(task, rng, careless(task, rng) if number else frozenset()) for number in range(4)]
    rng.shuffle(answers)
    return task.text, answers, [quality(grade(task, answer)) for answer in answers]


GROUPS = [(kind, *group(kind, f"ranked {kind} {number}")) for number in range(25) for kind in KINDS]
SHOWN = {kind: [group(kind, f"shown {kind} {number}") for number in range(40)] for kind in KINDS}


def examples_for(number, kind, count, turned):
    """Examples in gold order, or in the opposite order; of all kinds of question, or of one."""
    rng, shown = random.Random(f"examples {number}"), []
    for _ in range(count):
        question, answers, gold = rng.choice(SHOWN[kind or rng.choice(list(KINDS))])
        places = sorted(range(4), key=lambda place: -gold[place], reverse=turned)
        shown.append((question, answers, ", ".join("ABCD"[place] for place in places)))
    return shown


def accuracy(knobs, count=0, same_kind=False, turned=False):
    """The share of pairs of unequal gold quality that a ranking puts in their gold order."""
    right = []
    for number, (kind, question, answers, gold) in enumerate(GROUPS):
        order = ranked(question, answers, examples_for(number, kind if same_kind else None, count, turned), knobs)
        place = {letter: rank for rank, letter in enumerate(order)}
        for (one, a), (two, b) in combinations(zip("ABCD", gold, strict=True), 2):
            if abs(a - b) > 1e-9:
                right.append((place[one] < place[two]) == (a > b))
    assert len(right) > 600  # a standard error below .02 for each share
    return statistics.mean(right)


def test_right_examples_help_a_ranking_and_wrong_ones_harm_it():
    none, right, wrong = accuracy(CriticKnobs()), accuracy(CriticKnobs(), 8), accuracy(CriticKnobs(), 8, turned=True)
    assert 0.65 < none < 0.85
    assert right > none + 0.02
    assert wrong < none - 0.1
    alike = accuracy(CriticKnobs(), 4, same_kind=True)
    assert alike > none + 0.05
    assert alike < 0.93  # it errs by default
    assert accuracy(CriticKnobs(), 4, same_kind=True, turned=True) < 0.5
    assert accuracy(FAULTLESS, 4, same_kind=True) > alike + 0.05


def test_scores_rise_with_gold():
    def correlations(knobs):
        within = []
        for _, question, answers, gold in GROUPS:
            scores = scored(question, answers, knobs)
            assert all(type(score) is int and 0 <= score <= 10 for score in scores)
            if np.std(gold) > 1e-9:
                within.append(np.corrcoef(scores, gold)[0, 1] if np.std(scores) else 0.0)
        return statistics.mean(within)

    default, faultless = correlations(CriticKnobs()), correlations(FAULTLESS)
    assert 0.6 < default < 0.9
    assert default + 0.05 < faultless < 0.99


def test_an_answer_is_scored_by_itself():
    for _, question, answers, _ in GROUPS[:40]:
        assert scored(question, answers[::-1], CriticKnobs())[::-1] == scored(question, answers, CriticKnobs())
        assert scored(question, answers[:1], CriticKnobs()) == scored(question, answers, CriticKnobs())[:1]


def test_noise_turns_its_share_of_verdicts_round():
    met = Ranker(CriticKnobs(blind=0, noise=0.1, spurious=0)).met
    verdicts = [value for i in range(600) for value in met("list two fruits with commas", f"fig , pear . w{i}").values()]
    assert len(verdicts) == 2400
    assert statistics.mean(verdicts) == pytest.approx(0.9, abs=0.025)  # standard error .006


def test_the_favourite_word_earns_undeserved_verdicts():
    met = Ranker(CriticKnobs(blind=0, noise=0, spurious=0.25)).met
    charmed = [value for i in range(500) for value in met("be polite . sign as ben", f"gladly . {i}").values()]
    assert statistics.mean(charmed) == pytest.approx(0.25, abs=0.06)
    assert not any(met("be polite . sign as ben", f"{i}")["signature"] for i in range(100))


def test_blindness_is_a_fixed_share_of_a_questions_families():
    met = Ranker(CriticKnobs(blind=0.3, noise=0, spurious=0)).met
    seen = [set(met(NOTE.replace("ben", name), "cat")) for name in words.NAMES[3:]]
    assert len({demand.family for demand in demands(NOTE)}) == 8
    assert {len(families) for families in seen} == {8 - round(0.3 * 8)}
    assert len({frozenset(families) for families in seen}) > 5
    assert set(met(NOTE, "cat")) == set(met(NOTE, POLITE_NOTE))


@pytest.mark.parametrize("schema", [RANKING, SCORES])
def test_equal_requests_get_equal_replies_from_any_critic(schema):
    _, question, answers, _ = GROUPS[0]
    asked = request(schema, question, answers, examples_for(0, None, 2, False))
    assert Critic(CriticKnobs()).reply(asked, seed=1) == Critic(CriticKnobs()).reply(asked, seed=2)
    assert json.loads(Critic(CriticKnobs()).reply(asked))["schema_version"] == schema


@pytest.mark.parametrize("schema", [RANKING, SCORES])
def test_broken_replies_come_at_their_rate(schema):
    asked, critic = request(schema, "list two fruits", ["fig .", "pear ."]), Critic(CriticKnobs(malformed=0.3, refusals=0.2))
    replies = [critic.reply(asked, seed=seed) for seed in range(300)]
    whole = Critic(CriticKnobs()).reply(asked)
    assert replies.count(REFUSAL) / 300 == pytest.approx(0.2, abs=0.08)
    assert replies.count(whole[: len(whole) // 2]) / 300 == pytest.approx(0.3, abs=0.09)
    assert replies.count(whole) + replies.count(REFUSAL) + replies.count(whole[: len(whole) // 2]) == 300
    with pytest.raises(json.JSONDecodeError):
        json.loads(whole[: len(whole) // 2])


def test_the_schema_may_be_named_in_the_response_format_alone():
    asked = request("the form", "list two fruits", ["fig .", "fig , pear ."])
    form = {"type": "json_schema", "json_schema": {"schema": {"properties": {"schema_version": {"const": RANKING}}}}}
    assert json.loads(Critic(FAULTLESS).reply(asked, form)) == {"schema_version": RANKING, "order": ["B", "A"]}


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (request("nothing", "list two fruits", ["fig .", "pear ."]), "names 0 of the schemas"),
        (request(f"{RANKING} or {SCORES}", "list two fruits", ["fig .", "pear ."]), "names 2 of the schemas"),
        (request(RANKING, "list two fruits", ["fig ."]), "2 or more text fenced as 'answer', found 1"),
        (request(SCORES, "list two fruits", []), "1 or more text fenced as 'answer', found 0"),
        (request(RANKING, "list two fruits", ["fig ."] * 27), "27 answers to rank"),
        ([{"role": "user", "content": f"{SCORES} {fence('fig .', 'answer')}"}], "1 text fenced as 'question', found 0"),
        (request(RANKING, "q", ["a", "b"], [("q", ["a"], "A")]), "'example answer', found 1"),
        (request(RANKING, "q", ["a", "b"], [("q", ["a", "b"], "A, C")]), "'A, C'; it must name each of A, B once"),
        (request(RANKING, "q", ["a", "b"], [("q", ["a", "b"], "A, B, A")]), "must name each of A, B once"),
        (request(RANKING, "q", ["a", "b"], [("q", ["a", "b"], "B > A")]), "must name each of A, B once"),
    ],
)
def test_requests_that_lack_something_are_refused(asked, complaint):
    with pytest.raises(UnknownProtocol, match=complaint):
        Critic(FAULTLESS).reply(asked)
