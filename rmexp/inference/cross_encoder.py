"""Files by which sentence-transformers' CrossEncoder (version 6) takes pairs as dialogues.

CrossEncoder renders a pair with the chat template, as messages of the roles `query` and `document`.
A reward model knows `user` and `assistant`, so that its template needs them renamed.
"""

import json
from pathlib import Path
from typing import Any

RENAMED_ROLES = """\
{%- set pair = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set role = {"query": "user", "document": "assistant"}.get(message.role, message.role) -%}
{%- set pair.messages = pair.messages + [dict(message, role=role)] -%}
{%- endfor -%}
{%- set messages = pair.messages -%}
"""
"""Goes before a chat template."""

MODULES = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "sentence_transformers.base.modules.transformer.Transformer",
    }
]


IDENTITY = "torch.nn.modules.linear.Identity"
"""Without it the output would go through a sigmoid."""


def write_cross_encoder_files(tokenizer: Any, folder: Path) -> None:
    """Write the files beside an exported model.

    Args:
        tokenizer: of the model, with its chat template.
    """
    output = {"method": "forward", "method_output_name": "logits"}
    config = {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": output, "message": {**output, "format": "flat"}},
        "module_output_name": "scores",
        "processing_kwargs": {
            "chat_template": {"chat_template": RENAMED_ROLES + tokenizer.chat_template}
        },
    }
    files = {
        "modules.json": MODULES,
        "sentence_bert_config.json": config,
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": IDENTITY,
        },
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
