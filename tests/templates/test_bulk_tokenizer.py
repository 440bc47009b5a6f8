"""Token ids word by word are those of the whole text, or the whole text is encoded."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split
from transformers import PreTrainedTokenizerFast

from rmexp.templates.bulk_tokenizer import SPLITS, BulkTokenizer
from rmexp.templates.rendering import tokenize
from tests.helpers.toys import tiny_tokenizer

LEARNT = [
    "it's 2024, they'll re-open the café.\n\n  Go on:\tnow",
    "MÄRZ 12345  x = y;\r\n",
    "don't",
]


def made(step, normalizer=None, tokens=("<|im_start|>", "<|im_end|>")):
    """A BPE tokenizer with this step before it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.normalizer = step, normalizer
    alphabet = ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(LEARNT * 9, trainer)
    inner.add_special_tokens(list(tokens))
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def by_pattern(pattern, behavior="isolated"):
    split = Split(Regex(pattern), behavior)
    return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2 = ByteLevel(add_prefix_space=False)
BY_UNIT = [
    made(GPT2),
    made(Sequence([Digits(individual_digits=True), GPT2])),
    *(made(by_pattern(pattern), normalizers.NFC()) for pattern in sorted(SPLITS)),
    made(GPT2, tokens=["<|im_", "<|im_start|>", "<|im_end|>", "art|><|im_end|>"]),
    made(GPT2, tokens=["<|im_start|>", AddedToken("\u00e9", normalized=True)]),
]
NOT_BY_UNIT = [
    made(ByteLevel(add_prefix_space=True)),
    made(Metaspace()),
    made(by_pattern(r"\S+\s?\S*")),
    made(by_pattern(min(SPLITS), "merged_with_next")),
    made(GPT2, normalizers.NFKC()),
    made(GPT2, tokens=["<|end of turn|>"]),
    made(GPT2, tokens=[AddedToken("<mask>", lstrip=True)]),
    made(None),
]

texts = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "it's",
                    "word",
                    "12345",
                    ".",
                    "...",
                    "\n",
                    "\n\n",
                    "\r\n",
                    " ",
                    "  ",
                    "\t",
                    "\x1c",
                ),
                *("\x85", "\xa0", "\u3000", "é", "e\u0301", "\u0301", "'ll", "'LL", "词语"),
                *("<|im_start|>", "<|im_end|>", "<|im_", "<mask>", "<|end of turn|>", "!\n", " x"),
            ]
        ),
        st.text(max_size=6),
    ),
    max_size=12,
).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BY_UNIT)))
@settings(deadline=None, max_examples=40)
@given(st.lists(texts, max_size=4))
def test_ids_of_units_are_those_of_the_text(number, given_texts):
    bulk = BulkTokenizer(BY_UNIT[number])
    assert bulk.by_unit
    whole = tokenize(BY_UNIT[number], given_texts)
    assert bulk(given_texts) == whole
    assert bulk(given_texts[::-1]) == whole[::-1]  # now from memory


@pytest.mark.parametrize("number", range(len(NOT_BY_UNIT)))
def test_other_tokenizers_encode_whole_texts(number):
    bulk = BulkTokenizer(NOT_BY_UNIT[number])
    assert not bulk.by_unit
    assert bulk(["a word <mask> here"]) == tokenize(NOT_BY_UNIT[number], ["a word <mask> here"])


def test_a_class_with_its_own_encoding_encodes_whole_texts():
    class Own(PreTrainedTokenizerFast):
        def _encode_plus(self, *args, **kwargs):
            return super()._encode_plus(*args, **kwargs)

    assert not BulkTokenizer(Own(tokenizer_object=BY_UNIT[0].backend_tokenizer)).by_unit


def test_what_is_remembered_is_bounded_and_does_not_change_results(monkeypatch):
    monkeypatch.setattr("rmexp.templates.bulk_tokenizer.MOST_UNITS", 3)
    bulk = BulkTokenizer(tiny_tokenizer())
    given_texts = ["a b c d", "e f " + "g" * 100, "a b"]
    for text in given_texts * 2:
        assert bulk([text]) == tokenize(bulk.tokenizer, [text])
    assert len(bulk._numbers) <= 4 + 3
    assert pickle.loads(pickle.dumps(bulk))(given_texts) == bulk(given_texts)
