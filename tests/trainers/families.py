"""Small tokenizers with the special tokens and chat templates of ten model families, from what these publish.

The vocabularies are ours; the special tokens, which of them begins a text, ends a turn and pads, whether the tokenizer
itself puts the beginning in front, and the shape of the template are the families'. Templates are cut down to roles
system, user and assistant.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Family:
    """`ends`: the ids that its generation_config names; `adds`: the tokenizer puts `begin` before a plain text."""

    name: str
    begin: str | None
    end: str
    pad: str | None
    template: str
    others: tuple[str, ...] = ()
    adds: bool = False
    ends: tuple[str, ...] = ()


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def with_default_system(text: str) -> str:
    """ChatML that puts its own system message where there is none, as SmolLM2's and Qwen 2.5's do."""
    return (
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        f"{{{{ '<|im_start|>system\n{text}<|im_end|>\n' }}}}{{% endif %}}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set ms = messages[1:] %}{% set sys = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set ms = messages %}{% set sys = '' %}{% endif %}"
    "{% for m in ms %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first else '') + "
    "m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set c = bos_token + c %}{% endif %}{{ c }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% if loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m['content'] + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + "
    "'\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATGLM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[Round ' ~ (loop.index0 // 2 + 1) ~ ']\n\n问：' + "
    "m['content'] + '\n\n答：' }}{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + '\n\n' }}{% else %}"
    "{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}"
)
IM = ("<|im_start|>", "<|im_end|>")
FAMILIES = (
    Family("llama-2", "<s>", "</s>", None, LLAMA2, ("<unk>",), adds=True),
    Family(
        "llama-3", "<|begin_of_text|>", "<|eot_id|>", None, LLAMA3,
        ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|finetune_right_pad_id|>"),
        adds=True, ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    Family("qwen-2.5", None, "<|im_end|>", "<|endoftext|>", with_default_system("You are Qwen."), IM,
           ends=("<|im_end|>", "<|endoftext|>")),
    Family("qwen-3", None, "<|im_end|>", "<|endoftext|>", QWEN3, IM, ends=("<|im_end|>", "<|endoftext|>")),
    Family("gemma", "<bos>", "<eos>", "<pad>", GEMMA, ("<start_of_turn>", "<end_of_turn>"), adds=True,
           ends=("<eos>", "<end_of_turn>")),
    Family("phi-3", "<s>", "<|endoftext|>", "<|endoftext|>", PHI3,
           ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<unk>"), ends=("<|endoftext|>", "<|end|>")),
    Family("mistral", "<s>", "</s>", None, MISTRAL, ("<unk>",), adds=True),
    Family("smollm2", "<|im_start|>", "<|im_end|>", "<|im_end|>", with_default_system("You are SmolLM."),
           ("<|endoftext|>",)),
    Family("deepseek", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", DEEPSEEK,
           ("<｜User｜>", "<｜Assistant｜>"), adds=True),
    Family("glm-4", None, "<|endoftext|>", "<|endoftext|>", GLM4,
           ("[MASK]", "[gMASK]", "<sop>", "<eop>", "<|user|>", "<|assistant|>", "<|system|>"),
           ends=("<|endoftext|>", "<|user|>")),
    Family("yi", "<|startoftext|>", "<|im_end|>", "<unk>", CHATML, ("<|im_start|>", "<unk>")),
    Family("chatglm", "<sop>", "<eop>", "<pad>", CHATGLM, ("[gMASK]",)),
)  # fmt: skip


def tokenizer_of(family: Family) -> Any:
    """A byte-level tokenizer with the family's special tokens, which text can spell, as in the families' own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = [token for token in (family.begin, family.end, family.pad, *family.others) if token]
    special = list(dict.fromkeys(named))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        iter(["user assistant system model"] * 3),
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if family.adds and family.begin:
        begin = (family.begin, tokenizer.token_to_id(family.begin))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin[0]}:0 $A:0", special_tokens=[begin])
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=family.begin, eos_token=family.end, pad_token=family.pad,
        clean_up_tokenization_spaces=False, unk_token="<unk>" if "<unk>" in special else None,
    )  # fmt: skip
    made.chat_template = family.template
    return made


def build_family(family: Family, folder: Path) -> str:
    """A Llama of a few thousand random weights under the family's tokenizer; its folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizer_of(family)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(shape)
    if family.ends:
        model.generation_config.eos_token_id = list(ids(tokenizer, family.ends))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def ids(tokenizer: Any, tokens: tuple[str, ...]) -> Iterator[int]:
    return (tokenizer.convert_tokens_to_ids(token) for token in tokens)
