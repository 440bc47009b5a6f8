"""The named templates against strings written out by hand, and against the families' own."""

import warnings
from importlib import resources

import pytest
import transformers
from omegaconf import OmegaConf
from tokenizers import processors

from rmexp.templates import rendering
from tests.conftest import ROOT
from tests.helpers.options import from_conf

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLS = [
    {"role": "user", "content": "Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abcdefghi",
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Oslo"}},
            }
        ],
    },
    {"role": "tool", "content": '{"rain": true}', "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "Wet."},
]
NAMES = sorted(
    file.stem
    for file in ROOT.glob("conf/template/*.yaml")
    if file.stem not in ("tokenizer", "jinja")
)

GOLDEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\nSee you<|im_end|>\n",
    "qwen": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\nSee you<|im_end|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nSee you<|eot_id|>",
    "gemma": "<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n"
    "<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n"
    "<start_of_turn>model\nSee you<end_of_turn>\n",
    "mistral": "<s>[INST] Hi[/INST] Hello</s>[INST] Be kind.\n\nBye[/INST] See you</s>",
    "phi": "<s><|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n"
    "<|user|>\nBye<|end|>\n<|assistant|>\nSee you<|end|>\n</s>",
    "zephyr": "<s><|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n"
    "<|user|>\nBye</s>\n<|assistant|>\nSee you</s>\n",
    "plain": "<s>System: Be kind.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Bye\n\n"
    "Assistant: See you</s>",
    "plain_zh": "<s>系统：Be kind.\n\n用户：Hi\n\n助手：Hello\n\n用户：Bye\n\n助手：See you</s>",
    "judge": "<s># What makes an answer good\n"
    "Helpful, honest and correct; clear, and no longer than it needs to be.\n\n"
    "# Dialogue\nSystem: Be kind.\nUser: Hi\nAssistant: Hello\nUser: Bye\n\n"
    "# Answer\nSee you</s>",
}
WITHOUT_SYSTEM = {
    "chatml": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
    "qwen": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>",
    "gemma": "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n",
    "mistral": "<s>[INST] Hi[/INST] Hello</s>",
    "phi": "<s><|user|>\nHi<|end|>\n<|assistant|>\nHello<|end|>\n</s>",
    "zephyr": "<s><|user|>\nHi</s>\n<|assistant|>\nHello</s>\n",
    "plain": "<s>User: Hi\n\nAssistant: Hello</s>",
    "plain_zh": "<s>用户：Hi\n\n助手：Hello</s>",
    "judge": "<s># What makes an answer good\n"
    "Helpful, honest and correct; clear, and no longer than it needs to be.\n\n"
    "# Dialogue\nUser: Hi\n\n# Answer\nHello</s>",
}
SCHEMA = '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}'
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
WITH_TOOLS = {
    "chatml": f"<|im_start|>system\nTools:\n{SCHEMA}<|im_end|>\n<|im_start|>user\nOslo?<|im_end|>\n"
    f"<|im_start|>assistant\n{CALL}<|im_end|>\n"
    '<|im_start|>tool\n{"rain": true}<|im_end|>\n<|im_start|>assistant\nWet.<|im_end|>\n',
    "qwen": "<|im_start|>system\n# Tools\n\nYou may call one or more functions to assist with the "
    "user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n"
    f"<tools>\n{SCHEMA}\n</tools>\n\nFor each function call, return a json object with function "
    "name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\nOslo?<|im_end|>\n"
    f"<|im_start|>assistant\n<tool_call>\n{CALL}\n</tool_call><|im_end|>\n"
    '<|im_start|>user\n<tool_response>\n{"rain": true}\n</tool_response><|im_end|>\n'
    "<|im_start|>assistant\nWet.<|im_end|>\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\n"
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name '
    "and its value}.Do not use variables.\n\n"
    '{\n    "type": "function",\n    "function": {\n        "name": "weather",\n'
    '        "parameters": {\n            "type": "object"\n        }\n    }\n}\n\n'
    "Oslo?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
    '<|start_header_id|>ipython<|end_header_id|>\n\n{"rain": true}<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\nWet.<|eot_id|>",
    "gemma": f"<s><start_of_turn>user\nTools:\n{SCHEMA}\n\nOslo?<end_of_turn>\n"
    f"<start_of_turn>model\n{CALL}<end_of_turn>\n"
    '<start_of_turn>user\n{"rain": true}<end_of_turn>\n<start_of_turn>model\nWet.<end_of_turn>\n',
    "mistral": f"<s>[AVAILABLE_TOOLS] [{SCHEMA}][/AVAILABLE_TOOLS][INST] Oslo?[/INST]"
    '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcdefghi"}]</s>'
    '[TOOL_RESULTS] {"content": {"rain": true}, "call_id": "abcdefghi"}[/TOOL_RESULTS] Wet.</s>',
    "phi": f"<s><|system|>\nTools:\n{SCHEMA}<|end|>\n<|user|>\nOslo?<|end|>\n"
    f"<|assistant|>\n{CALL}<|end|>\n"
    '<|user|>\n{"rain": true}<|end|>\n<|assistant|>\nWet.<|end|>\n</s>',
    "zephyr": f"<s><|system|>\nTools:\n{SCHEMA}</s>\n<|user|>\nOslo?</s>\n"
    f"<|assistant|>\n{CALL}</s>\n"
    '<|user|>\n{"rain": true}</s>\n<|assistant|>\nWet.</s>\n',
    "plain": f"<s>System: Tools:\n{SCHEMA}\n\nUser: Oslo?\n\nAssistant: {CALL}\n\n"
    'Tool: {"rain": true}\n\nAssistant: Wet.</s>',
    "plain_zh": f"<s>系统：Tools:\n{SCHEMA}\n\n用户：Oslo?\n\n助手：{CALL}\n\n"
    '工具：{"rain": true}\n\n助手：Wet.</s>',
    "judge": "<s># What makes an answer good\n"
    "Helpful, honest and correct; clear, and no longer than it needs to be.\n\n"
    f"# Dialogue\nSystem: Tools:\n{SCHEMA}\nUser: Oslo?\n\n"
    f'# Answer\n{CALL}\nTool: {{"rain": true}}\nWet.</s>',
}


def tokenizer_of(*tags):
    """Bytes and some tags; like Llama's it puts <s> before every text by itself; eos = </s>."""
    inner = from_conf("model/tiny").load_tokenizer().backend_tokenizer
    inner.add_special_tokens(["<s>", "</s>", *tags])
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<|endoftext|>"
    )


def installed(name, **settings):
    """A tokenizer with a named template, whatever its vocabulary lacks."""
    options = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/template/{name}.yaml"))
    tokenizer = tokenizer_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from_conf(
            "template/tokenizer",
            source=options["source"],
            arguments=options.get("arguments", {}),
            **settings,
        ).install(tokenizer)
    return tokenizer


def test_every_named_template_has_its_strings():
    assert NAMES == sorted(GOLDEN) == sorted(WITHOUT_SYSTEM) == sorted(WITH_TOOLS)


@pytest.mark.parametrize("name", NAMES)
def test_golden_strings(name):
    tokenizer = installed(name)
    assert rendering.render(tokenizer, [TALK, TALK[1:3]]) == [GOLDEN[name], WITHOUT_SYSTEM[name]]
    assert rendering.render(tokenizer, [CALLS], tools=[WEATHER]) == [WITH_TOOLS[name]]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_dropped(name):
    tokenizer = installed(name)
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    talk = [
        {"role": "system", "content": parts},
        {"role": "user", "content": parts},
        {
            "role": "assistant",
            "content": parts,
            "reasoning_content": "I think",
            "tool_calls": [{"function": {"name": f, "arguments": {"x": 1}}} for f in "fg"],
        },
    ]
    (text,) = rendering.render(tokenizer, [talk], tools=[WEATHER])
    assert text.count("one two") == 3
    assert "<think>\nI think\n</think>\n\none two" in text
    assert '"name": "f"' in text
    assert '"name": "g"' in text
    assert '"weather"' in text
    assert "'text'" not in text


@pytest.mark.parametrize("name", NAMES)
def test_tokens_begin_with_one_bos_and_generation_prompts_continue(name):
    tokenizer = installed(name)
    (text,) = rendering.render(tokenizer, [TALK])
    ids = rendering.tokenize(tokenizer, [text])[0]
    assert ids.count(tokenizer.bos_token_id) == (name not in ("chatml", "qwen"))
    asked = tokenizer.apply_chat_template(TALK[:-1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked)


@pytest.mark.parametrize("name", NAMES)
def test_an_unfinished_response_ends_where_it_ends(name):
    tokenizer = installed(name, response_prefix="=> ", response_suffix=" [end]")
    (whole,) = rendering.render(tokenizer, [TALK])
    (cut,) = rendering.render(tokenizer, [TALK], unfinished=True)
    assert "=> See you [end]" in whole
    assert cut.endswith("=> See you")
    assert whole.startswith(cut)


@pytest.mark.parametrize(
    ("name", "theirs", "talk"),
    [
        ("llama3", "llama3", TALK),
        ("gemma", "gemma", TALK[1:]),
        ("gemma", "gemma3", TALK),
        ("phi", "phi3", TALK),
        ("qwen", "qwen3_instruct_2507", TALK),
        ("qwen", "qwen3_instruct_2507", CALLS),
        ("qwen", "qwen2_5", TALK),
    ],
)
def test_the_families_own_templates_agree(name, theirs, talk):
    folder = pytest.importorskip("trl")
    source = (resources.files(folder) / f"chat_templates/{theirs}.jinja").read_text()
    tokenizer = installed(name)
    tools = [WEATHER] if talk is CALLS else ()
    (ours,) = rendering.render(tokenizer, [talk], tools)
    tokenizer.chat_template = source
    assert ours.removeprefix("<s>") == rendering.render(tokenizer, [talk], tools)[0].removeprefix(
        "<s>"
    )
