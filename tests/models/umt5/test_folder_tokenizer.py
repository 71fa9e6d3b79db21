"""The tokenizer of a folder says what transformers says of the same files."""

import json

import pytest
import tokenizers
import transformers

from skyreels_jax.core.errors import UserError
from skyreels_jax.models.umt5.tokenizer import FolderTokenizer
from skyreels_jax.pipelines.places import shipped

TEXTS = ["", "a red ring", "red</s> ring <extra_id_0> x", "ring " * 40, "Ünknown  wörds\nhere"]


@pytest.fixture(params=["unigram", "miniature"])
def folder(request, tmp_path):
    """A tokenizer built as UMT5's is (pieces, end token, extra ids); the shipped one."""
    if request.param == "miniature":
        return shipped() / "tokenizer"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -2.0) for word in ("a", "red", "ring")]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    core = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>", "<extra_id_1>"],
    ).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("cut", [None, 7])
def test_tokens_are_those_of_transformers(folder, cut):
    ours = FolderTokenizer(folder)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    options = {} if cut is None else {"max_length": cut, "truncation": True}
    for text in TEXTS:
        assert ours(text, **options) == {"input_ids": theirs(text, **options)["input_ids"]}
    assert ours(TEXTS, **options)["input_ids"] == theirs(TEXTS, **options)["input_ids"]
    assert len(ours(TEXTS[3])["input_ids"]) > 40  # a cut is of one call alone
    assert ours.pad_token_id == theirs.pad_token_id == 0
    assert ours.get_vocab() == theirs.get_vocab()


def configured(folder, tmp_path, **values):
    path = tmp_path / "other"
    path.mkdir()
    for file in folder.glob("tokenizer*.json"):
        (path / file.name).write_bytes(file.read_bytes())
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(config | values))
    return path


def test_tokens_that_the_configuration_adds(folder, tmp_path):
    plain = FolderTokenizer(folder)
    count = len(plain.get_vocab())
    added = {str(count): {"content": "<new>", "special": True}}
    path = configured(folder, tmp_path, added_tokens_decoder=added)
    assert FolderTokenizer(path)("a <new>")["input_ids"][-2:] == [count, 1]
    assert FolderTokenizer(path).get_vocab() == plain.get_vocab() | {"<new>": count}


def test_files_that_contradict_each_other(folder, tmp_path):
    added = {"7": {"content": "</s>", "special": True}}
    with pytest.raises(UserError, match="'</s>' as 7, tokenizer.json as 1"):
        FolderTokenizer(configured(folder, tmp_path, added_tokens_decoder=added))


def test_a_pad_token_that_is_unknown(folder, tmp_path):
    with pytest.raises(UserError, match="does not know its pad token '<none>'"):
        FolderTokenizer(configured(folder, tmp_path, pad_token={"content": "<none>"}))


def test_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match="not a tokenizer that can be read"):
        FolderTokenizer(tmp_path)
