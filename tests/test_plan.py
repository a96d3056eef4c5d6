"""A plan says what a run will use: against real runs, against transformers' own counts, and against arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from tiny import tiny

from harness import registry, tracks
from harness.assemble import assemble
from harness.errors import CapabilityError, SpecError
from harness.gate.runs import Silent
from harness.loop import train
from harness.method import Ask
from harness.plan import costs, machine
from harness.plan.plan import Plan, Wanted, plan_of
from harness.plan.rehearsal import Lengths, rehearse
from harness.plan.schema import Replies
from harness.plan.shapes import Shape, shape_of
from harness.plan.voices import Codec, Said, Voice, spread
from harness.replies import Ranking, Scores, read_order, read_scores
from harness.report import claims_data
from harness.spec import RunSpec, resolve
from harness.store import RunStore, read_lines
from harness.tracks import Served
from harness.train.lora import Adapter
from harness.types import Prompt

REAL = ("qwen2.5-0.5b", "qwen3-4b-ropd", "qwen3-1.7b-ogls", "gemma2-2b-pad")
FEW = Lengths(1000, 1000)
"""Longer than the embedded track's texts may be: they are cut, and fewer prompts are played."""
CLASSES = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "gemma2": "Gemma2"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded track, 32 prompts long."""
    path = tmp_path_factory.mktemp("track") / "small.yaml"
    told = {"extends": "pocket", "name": "small", "budget": {"prompts": 32}, "marks": ["0", "1"], "prompts": {"count": 512}}
    path.write_text(yaml.safe_dump(told), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one that was really made."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(root / "cache"))
        spec, origins = resolve("t_judge", str(small))
        store, _ = RunStore.open(spec, origins, root)
        with assemble(spec, [], lambda word: None) as run:
            train(run, store, Silent())
    return root


def used(root: Path) -> dict[str, float]:
    return list(read_lines(next(root.glob("small/*/ledger.jsonl"))))[-1]["training"]


def spec_of(method: str, track: Path | str = "pocket", budget: str = "prompts=512", *settings: str) -> RunSpec:
    return resolve(method, str(track), 0, list(settings), [budget], pin=False)[0]


def test_a_rehearsal_is_within_15_percent_of_a_run_whose_lengths_are_known(small: Path, finished: Path) -> None:
    """Only the mean length comes from the run; calls, prompts' tokens and replies come from the method and the stand-ins."""
    spent = used(finished)
    mean = spent["student_tokens"] / spent["rollouts"]
    plan = plan_of(spec_of("t_judge", small, "prompts=32"), Wanted(completion_tokens=mean, look=True), finished / "nothing")
    for meter in ("rollouts", "critic_calls", "optimizer_steps"):
        assert plan.meters[meter] == spent[meter] > 0, meter
    for meter in ("student_tokens", "critic_tokens_in", "critic_tokens_out", "flops", "usd"):
        assert plan.meters[meter] == pytest.approx(spent[meter], rel=0.15), meter


def test_finished_runs_of_the_method_are_scaled(small: Path, finished: Path) -> None:
    spent = used(finished)
    plan = plan_of(spec_of("t_judge", small, "prompts=320"), runs=finished)
    for meter in ("student_tokens", "critic_tokens_in", "train_tokens", "flops"):
        assert plan.meters[meter] == pytest.approx(10 * spent[meter]), meter
    assert any("scaled from the ledgers of 1 finished runs" in line for line in plan.basis)


def test_other_methods_take_their_texts_from_finished_runs(small: Path, finished: Path) -> None:
    spent = used(finished)
    plan = plan_of(spec_of("dpo", small, "prompts=320"), runs=finished)
    length, known = (meters["student_tokens"] / meters["rollouts"] for meters in (plan.meters, spent))
    assert length == pytest.approx(known, rel=0.15)
    assert any("as in 1 finished runs" in line for line in plan.basis)


def test_a_servers_likeliest_tokens_can_be_rehearsed() -> None:
    spec, _ = resolve("logit_opd", "pocket", settings=["form=top", "top_k=3"])
    meters = rehearse(spec, FEW).own.meters
    assert meters["teacher_scored_tokens"] == meters["student_tokens"] > 0


@pytest.mark.parametrize("name", sorted(registry.modules("methods")))
def test_every_method_can_be_rehearsed(name: str) -> None:
    spec = spec_of(name, "pocket")
    own = rehearse(spec, FEW).own
    config = spec.config
    assert own.meters["prompts"] == 1
    assert own.meters["train_tokens"] > 0
    assert own.updates == config["updates_per_batch"] * config["passes"]
    group = config.get("group_size", {"sharpen": 1, "self_judge": 2, "pad": config.get("samples")}.get(name, 0))
    if own.collects == 1 and "on_policy" not in config:
        assert own.meters["rollouts"] == group
    else:  # a prompt is seen again, or its answer is the teacher's
        assert own.meters["rollouts"] <= max(group, 1) * own.collects


def test_calls_are_the_methods_own() -> None:
    ropd = rehearse(spec_of("ropd", "pocket", "prompts=512", "answers_per_call=5", "references=2"), FEW).own.meters
    assert (ropd["teacher_calls"], ropd["critic_calls"], ropd["rollouts"]) == (1, 1 + math.ceil((8 + 2) / 5), 8)
    pad = rehearse(spec_of("pad", "pocket", "prompts=512", "orders=single"), FEW).own.meters
    assert pad["teacher_calls"] == math.comb(4, 2)


def test_a_need_that_the_track_cannot_meet_is_refused() -> None:
    with pytest.raises(CapabilityError, match="no critic"):
        plan_of(spec_of("ropd", "qwen3-1.7b-ogls", "prompts=64"), Wanted(look=False))


def test_another_meter_ends_the_run_at_its_ceiling() -> None:
    spec = spec_of("logit_opd", "pocket", "student_tokens=10000")
    plan = plan_of(spec, Wanted(completion_tokens=10.0))
    assert plan.meters["student_tokens"] == pytest.approx(10000, rel=0.01)
    with pytest.raises(SpecError, match="never ends"):
        plan_of(spec_of("sft", "pocket", "student_tokens=10000"))


def test_the_largest_budget_is_the_last_that_the_purse_pays() -> None:
    def plan(prompts: int) -> Plan:
        return plan_of(spec_of("t_judge", "pocket", f"prompts={prompts}"), Wanted(completion_tokens=15.0, purse_usd=1.0))

    largest = plan(512).largest
    assert largest
    most = int(largest["prompts"])
    assert sum(plan(most).usd.values()) <= 1.0 < sum(plan(most + 16).usd.values())
    assert plan_of(spec_of("ropd"), Wanted(purse_usd=1e-9)).largest == {}


def test_shapes_count_weights_as_transformers_does() -> None:
    import transformers

    told = machine.table("shapes")["shapes"]
    assert {shape["model_type"] for shape in told} == set(CLASSES)
    for config in told:
        kind = CLASSES[config["model_type"]]
        plain = {key: value for key, value in config.items() if key not in ("names", "model_type")}
        with torch.device("meta"):
            model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**plain))
        assert Shape.of(config, config["names"][0]).parameters == sum(p.numel() for p in model.parameters()), config["names"]


def test_the_embedded_student_and_an_adapter_are_counted() -> None:
    track = tracks.load("pocket")
    assert shape_of(track.student, track, 0).parameters == 383_184
    model = tiny()
    adapter = Adapter(model, rank=4, alpha=8.0)
    shape = Shape.of(model.config.to_dict(), "tiny")
    assert shape.parameters == sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    assert shape.adapter(4) == sum(p.numel() for p in adapter.parameters.values())


def test_memory_and_hours_follow_from_the_shape() -> None:
    track = tracks.load("qwen3-4b-ropd")
    shape = shape_of(track.student, track, 0)
    held = machine.memory(track, {"student": shape}, 1.41e11, 4096, 256, 0, 128)
    assert held["weights"] == held["gradients"] == 4 * 4_022_468_096
    assert held["optimizer state"] == 8 * 4_022_468_096
    assert machine.peak(held) > 16 * 4_022_468_096
    assert machine.activations(shape, 1000, again=True) < machine.activations(shape, 1000, again=False) / 5
    batch = machine.Batch(tokens=1e6, completions=1000, together=100, prompt=100)
    assumed = machine.Assumed(bandwidth=1.0, step_ms=0.0)
    slow, fast = (machine.sampling_s(shape, track, batch, machine.gpu(name), assumed) for name in ("rtx4090", "h200"))
    read = 2 * (shape.parameters + 100 * (100 + 500) * shape.kv_numbers)
    assert slow == pytest.approx(10 * 1000 * read / 1.008e12)
    assert slow / fast == pytest.approx(4.8e12 / 1.008e12)
    served = Served(url="https://example.org/v1", model="m", concurrency=10)
    assert machine.waiting_s(served, 60, 1e6, 5e4, machine.Assumed(server_tokens_s=50.0)) == 100
    paced = served.model_copy(update={"rpm": 6.0, "tpm": 1e6})
    assert machine.waiting_s(paced, 60, 1e6, 5e4, machine.Assumed(server_tokens_s=50.0)) == 600
    with pytest.raises(SpecError, match="no GPU named"):
        machine.gpu("h10")


def test_a_price_that_nobody_knows_is_said() -> None:
    critic = {"url": "https://example.org/v1", "model": "nobody-knows", "usd_in": 0, "usd_out": 0}
    spec = spec_of("t_judge").model_copy(update={"track": tracks.load("pocket", over={"critic": critic})})
    assert plan_of(spec).unpriced == ["critic"]


def test_made_up_replies_are_found_for_forms_nobody_told_of() -> None:
    replies = Replies(Random(0))
    order = Ask((), lambda text: read_order(text, 7), schema=Ranking.model_json_schema())
    scores = Ask((), lambda text: read_scores(text, 13), schema=Scores.model_json_schema())
    assert sorted(json.loads(replies.to(order))["order"]) == list("ABCDEFG")
    assert len(json.loads(replies.to(scores))["scores"]) == 13

    def never(text: str) -> None:
        raise ValueError

    with pytest.raises(CapabilityError, match="cannot be rehearsed"):
        replies.to(Ask((), never, schema=Scores.model_json_schema()))


def test_voices_keep_their_lengths() -> None:
    prompts = [Prompt(f"p{i}", ()) for i in range(300)]
    made = Voice(Codec(), ["word", "other"], 20, 25)
    lengths = [said.tokens for prompt in prompts for said in made.group(prompt, 2)]
    assert max(lengths) == 25
    assert 17 < sum(lengths) / len(lengths) < 20
    said = made.group(prompts[0], 1)[0]
    assert len(made.ids(said)) == said.tokens
    heard = Voice(Codec(), [], 20, 25, [(Said("a", 3), Said("b", 4))])
    assert {said.tokens for said in heard.group(prompts[0], 2)} == {3, 4}
    assert spread([5, 1, 9, 3, 7, 11], 3) == [3, 4, 5]


@pytest.mark.parametrize("name", REAL)
def test_the_real_tracks_are_pinned_and_say_where_their_numbers_are_from(name: str) -> None:
    track = tracks.load(name)
    assert len(track.student.revision) == 40
    assert all(model.revision or "127.0.0.1" in model.url for _, model in track.served)
    text = (Path(tracks.__file__).parent / "data" / "tracks" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("#")
    assert track.prices or not any(model.usd_in for _, model in track.served)


def test_claims_that_need_scale_tell_what_plans_say() -> None:
    planned = {claim.id: claim for claim in claims_data.shipped() if isinstance(claim, claims_data.NeedsScale) and claim.runs}
    assert set(claims_data.costs()) == set(planned)
    claim = planned["opsd-mathematics"]
    found, told = costs.cost_of(claim.runs), claims_data.costs()[claim.id]
    assert (found.gpu_hours, found.usd) == (pytest.approx(told.gpu_hours, rel=5e-3), pytest.approx(told.usd, rel=5e-3)), (
        "refresh them: python -m harness.plan.costs"
    )
    assert f"{found.gpu_hours:.0f} hours of one h100, ${found.usd:.0f}, evaluation apart" in claim.cost


def test_the_table_of_costs_is_what_plans_say() -> None:
    planned = costs.plans()
    page = costs.PAGE.read_text(encoding="utf-8")
    assert costs.shown(page) == costs.table(planned), "refresh it: python -m harness.plan.costs"
    assert {plan.track for plan in planned} == set(REAL)
    assert all(plan.fits for plan in planned)
