"""Tiny language models on disk, to sample from and to improve."""

import torch
import transformers

from tests.helpers.toys import tiny_tokenizer

ASKS = "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"


def tiny_policy(folder, seed=0, template=ASKS):
    """A directory with a random decoder of the tiny model's size and its tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += template
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        initializer_range=0.3, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
