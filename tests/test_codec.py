"""Conversations as ids: what ends an answer, arguments of the template, system messages, and templates that refuse."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_chat

from harness.errors import CapabilityError
from harness.generate.student import ChatCodec

USER = ({"role": "user", "content": "say one two"},)
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is false %}quick {% endif %}{% endif %}"
)


def tokenizer_of(template: str | None = None, **tokens: str) -> Any:
    _, tokenizer = tiny_chat.checkpoint("Qwen3", ["say one two three", "quick quick"], chat=template is None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|stop|>", "<|user|>", "<|assistant|>", "<|system|>"]})
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def test_an_answer_ends_where_the_configuration_the_tokenizer_or_the_template_says() -> None:
    tokenizer = tokenizer_of(THINKING)
    stop = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert tokenizer.eos_token_id == 0 != stop
    assert ChatCodec(tokenizer).ends == {0, stop}
    assert ChatCodec(tokenizer, [7, 0]).ends == {0, 7, stop}
    assert ChatCodec(tokenizer, 7).ends == {0, 7, stop}
    assert (ChatCodec(tokenizer, 7).configured, ChatCodec(tokenizer, [7, 0]).configured) == ({7}, {0, 7})
    assert ChatCodec(tokenizer_of()).ends == {0}, "the template ends turns with the tokenizer's own end"
    assert ChatCodec(tokenizer).completion(USER, "three")[-1] == stop, "what the template writes behind it is no part of a reply"
    assert tokenizer.decode(ChatCodec(tokenizer).completion(USER, "three")) == "three<|stop|>"


def test_a_reply_without_an_end_in_the_template_gets_the_tokenizers() -> None:
    bare = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    codec = ChatCodec(tokenizer_of(bare))
    assert codec.ends == {0}
    assert codec.completion(USER, "three")[-1] == 0


def test_arguments_and_a_system_message_reach_the_template() -> None:
    tokenizer = tokenizer_of(THINKING)

    def text(codec: ChatCodec, messages: Any = USER) -> str:
        return str(tokenizer.decode(codec.prompt(messages)))

    plain, quick = ChatCodec(tokenizer), ChatCodec(tokenizer, template={"enable_thinking": False})
    assert text(plain).endswith("<|assistant|>")
    assert text(quick).endswith("<|assistant|>quick ")
    assert quick.rendered(USER) == text(quick)
    told = ChatCodec(tokenizer, system="one two")
    assert text(told).startswith("<|system|>one two<|stop|>")
    own = ({"role": "system", "content": "three"}, *USER)
    assert text(told, own) == text(plain, own), "a conversation's own system message stays"
    with pytest.raises(CapabilityError, match="does not continue its own generation prompt"):
        quick.completion(USER, "three")


def test_a_template_that_refuses_a_conversation_is_an_error_of_ours() -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + THINKING
    codec = ChatCodec(tokenizer_of(strict), system="one")
    with pytest.raises(CapabilityError, match="conversation of system, user: no system role"):
        codec.prompt(USER)
    assert 0 in codec.ends
    none = tokenizer_of("")
    none.chat_template = None
    with pytest.raises(CapabilityError, match="does not take a conversation of user"):
        ChatCodec(none).prompt(USER)
    none.eos_token = None
    with pytest.raises(CapabilityError, match="names no token that ends an answer"):
        assert ChatCodec(none).ends
    assert ChatCodec(none, 5).pad in (0, 5)
