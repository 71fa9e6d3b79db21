"""Prompt cleaning, tokens and the compact form of the 512-token context."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import prompt_clean

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.umt5.text import clean_prompt, compact_context, tokenize


@pytest.fixture(scope="module")
def tokenizer():
    words = ["<pad>", "</s>", "<unk>", *"abcdefgh"]
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>")
    fast = tokenizers.Tokenizer(model)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " a\t red\n circle ",
        "&amp;lt;b&amp;gt; &quot;x&quot;",
        "schÃ¶n",
        "“a” — b\u3000c",
        "\x1cb\xa0",
    ],
)
def test_cleaning_equals_the_pipeline(prompt):
    assert clean_prompt(prompt) == prompt_clean(prompt)


@pytest.mark.parametrize(
    ("words", "max_length", "size"),
    [(0, 512, 16), (14, 512, 16), (15, 512, 32), (40, 24, 24), (22, 24, 24)],
)
def test_tokens(tokenizer, words, max_length, size):
    out = tokenize(tokenizer, ["a b", " ".join("c" * words)], max_length=max_length)
    theirs = tokenizer(
        ["a b", " ".join("c" * words)],
        padding="max_length",
        max_length=max_length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="np",
    )
    assert out["input_ids"].dtype == out["length"].dtype == np.int32
    assert out["input_ids"].shape == (2, size)
    np.testing.assert_array_equal(out["input_ids"], theirs["input_ids"][:, :size])
    np.testing.assert_array_equal(out["length"], theirs["attention_mask"].sum(1))


def test_tokenize_wants_a_list(tokenizer):
    for bad in ("a b", []):
        with pytest.raises(UserError, match="at least one prompt"):
            tokenize(tokenizer, bad)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize(("rows", "total"), [([16, 15, 3], 16), ([15, 3], 64)])
def test_compact_context_is_the_padded_softmax(rows, total):
    random = np.random.default_rng(0)
    hidden = random.normal(size=(len(rows), 16, 4)).astype(np.float32)
    query = random.normal(size=(len(rows), 4))
    compact = jax.jit(compact_context, static_argnums=2)(hidden, np.array(rows), total)
    for n, h, q, context, weight in zip(
        rows, hidden, query, *map(np.asarray, compact), strict=True
    ):
        assert weight.sum() == total
        padded = np.zeros((total, 4))
        padded[:n] = h[:n]
        np.testing.assert_array_equal(context, padded[:16])
        with np.errstate(divide="ignore"):
            ours = softmax(context @ q + np.log(weight)) @ context
        np.testing.assert_allclose(ours, softmax(padded @ q) @ padded, atol=1e-6)


def test_context_longer_than_the_model_reads():
    with pytest.raises(UserError, match="at most 8"):
        compact_context(jnp.zeros((1, 9, 2)), jnp.array([3]), 8)
