"""The student with all that reads or changes its weights, in one process or in each of several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness import registry
from harness.errors import CapabilityError, SpecError
from harness.generate.base import Generator
from harness.generate.hf import HFGenerator
from harness.generate.shared import SharedGenerator
from harness.generate.student import ChatCodec
from harness.generate.vllm import VLLMGenerator, samples
from harness.method import Method, needs_of
from harness.spec import RunSpec
from harness.tracks import LocalModel, Track
from harness.train.distributed import World
from harness.train.load import load_causal_lm, load_tokenizer, pick_device
from harness.train.lora import Adapter
from harness.train.optimization import Optimization
from harness.train.orders import obey
from harness.train.trainer import Trainer
from harness.types import Need


def enlist(spec: RunSpec, world: World) -> None:
    """What one of the other processes of a run does: holds its part of the models, and obeys until it is let go."""
    cls = registry.method(spec.method)
    method = cls(cls.Config.model_validate(spec.config))
    _, trainer, generator = learner(spec, method, needs_of(method), world, lambda name, read, scored: None)
    obey(world, led(trainer, generator))
    generator.close()


def led(trainer: Trainer, generator: Generator) -> dict[str, Any]:
    """What all processes must do together; a reference that is whole in each of them is asked in the first one alone."""
    reference = trainer.models.frozen.get("reference")
    cut = {"reference": reference} if reference and reference.sharded else {}
    return {"trainer": trainer, "generator": generator, **cut}


def learner(
    spec: RunSpec, method: Method, needs: frozenset[Need], world: World, charge: Callable[[str, int, int], None]
) -> tuple[ChatCodec, Trainer, Generator]:  # fmt: skip
    """The student with all that reads or changes its weights, and the frozen models beside it."""
    track, device = spec.track, device_of(spec.track)
    with_vllm = samples(track.generation.engine, device)
    cut = world.size > 1 and track.training.sharding == "full"  # then no GPU need ever hold the whole model in float32
    _set_threads(track.training.threads)
    student = load_model(track.student, spec, cut and track.student.lora is None)
    codec = codec_of(track.student, spec, student.generation_config)
    adapter = _adapter(student, track.student, spec.seed)
    # a tokenizer may know ids that the model was never given rows for, and an output layer may be padded
    vocabulary = min(len(codec.tokenizer), len(student.get_output_embeddings().weight))
    frozen = {}
    for need in needs & {Need.TEACHER_LOGITS, Need.TEACHER_SCORES, Need.TEACHER_TOP}:
        if track.teacher is not None and track.teacher.weights is not None:
            _check_same_tokenizer(codec, codec_of(track.teacher.weights, spec), need)
            if need is Need.TEACHER_LOGITS:
                frozen["teacher"] = load_model(track.teacher.weights, spec, cut)
    if Need.REFERENCE in needs:
        frozen["reference"] = student if adapter else load_model(track.student, spec, cut)
    trainer = Trainer(
        student, frozen, method, _optimization(track, method), vocabulary=vocabulary,
        temperature=method.config.temperature, charge=charge,
        micro_batch_tokens=track.training.micro_batch_tokens, chunk=track.training.chunk,
        adapter=adapter, recompute=track.training.activation_checkpointing, world=world, sharding=track.training.sharding,
        device=device,
    )  # fmt: skip
    plain = HFGenerator(trainer.written_by, sorted(codec.ends), codec.pad, vocabulary=vocabulary, bf16=True)
    own = _vllm(plain, adapter, spec, world.size) if with_vllm else plain
    return codec, trainer, own if world.size == 1 else SharedGenerator(own, world, trainer.refresh, own.copies or trainer.cut)


def _check_same_tokenizer(ours: ChatCodec, theirs: ChatCodec, need: Need) -> None:
    """Token probabilities of another tokenizer mean nothing: ids, end token and template must agree."""
    probe = [{"role": "user", "content": "0 1 2 the is a of : ."}]
    views = [(c.tokenizer.get_vocab(), c.tokenizer.eos_token_id, c.prompt(probe)) for c in (ours, theirs)]
    names = ("vocabulary", "end token", "chat template")
    for name, mine, other in zip(names, *views, strict=True):
        if mine != other:
            shown = f": {mine} and {other}" if name != "vocabulary" else f" ({len(mine)} and {len(other)} entries)"
            raise CapabilityError(
                f"not applicable: {need.value} of a teacher with another {name}{shown}",
                fix="a text method such as ropd or seqkd works across tokenizers",
            )


def folder_of(model: LocalModel, spec: RunSpec) -> str:
    """Where a model's files lie, or its name on the hub."""
    if model.path.startswith("pocket:"):
        from harness.pocket import world

        return str(world.model_folder(model.path, spec.track, spec.seed))
    return model.path


def device_of(track: Track) -> Any:
    """Where this process has its models."""
    return pick_device(track.training.device, tiny=track.student.path.startswith("pocket:"))


def load_model(model: LocalModel, spec: RunSpec, in_main_memory: bool = False) -> Any:
    """A model of the track's, on the run's device or in main memory."""
    import torch

    return load_causal_lm(
        folder_of(model, spec), getattr(torch, model.dtype), revision=model.revision, remote_code=model.remote_code,
        attention=model.attention, device="cpu" if in_main_memory else device_of(spec.track),
    )  # fmt: skip


def _vllm(plain: HFGenerator, adapter: Adapter | None, spec: RunSpec, processes: int) -> VLLMGenerator:
    model, settings = spec.track.student, spec.track.generation
    return VLLMGenerator(
        plain, folder_of(model, spec), settings.gpu_memory, settings.dtype, adapter, model.revision or None, model.remote_code,
        processes,
    )  # fmt: skip


def codec_of(model: LocalModel, spec: RunSpec, generation: Any = None) -> ChatCodec:
    """How a model's conversations are written; of the student also what ends its answers, in the files of its marks as well."""
    tokenizer = load_tokenizer(folder_of(model, spec), revision=model.revision, remote_code=model.remote_code)
    codec = ChatCodec(tokenizer, generation and generation.eos_token_id, model.template, model.system)
    if generation and codec.ends != codec.configured:
        generation.eos_token_id = sorted(codec.ends)
    return codec


def _adapter(student: Any, model: LocalModel, seed: int) -> Adapter | None:
    if model.lora is None:
        return None
    return Adapter(student, rank=model.lora.rank, alpha=model.lora.alpha, targets=model.lora.targets, seed=seed)


def on_gpus(track: Track, processes: int) -> bool:
    """Whether the models of a run live on GPUs, one for each of its processes on this machine.

    Raises:
        SpecError: there are fewer GPUs.
    """
    import torch

    if device_of(track).type != "cuda":
        return False
    if processes > torch.cuda.device_count():
        raise SpecError(
            f"{processes} processes, and torch sees {torch.cuda.device_count()} GPUs", where=f"--processes {processes}",
            fix=f"--processes {torch.cuda.device_count()}, a GPU for each",
        )  # fmt: skip
    return True


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _optimization(track: Track, method: Method) -> Optimization:
    settings = track.optimizer
    steps = None
    if settings.schedule == "cosine":
        if track.budget_value.axis != "prompts":
            raise SpecError(
                "a cosine schedule needs a budget in prompts, from which the number of steps follows", where="optimizer"
            )
        rounds = -(-int(track.budget["prompts"]) // method.config.prompts_per_round)
        steps = rounds * method.config.updates_per_batch * method.config.passes
    return Optimization(
        lr=method.config.learning_rate or settings.learning_rate, warmup_steps=settings.warmup_steps,
        betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay, max_grad_norm=settings.max_grad_norm,
        schedule=settings.schedule, total_steps=steps,
    )  # fmt: skip
