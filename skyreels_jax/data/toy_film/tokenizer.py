"""The miniature's tokenizer: whole lower-case words, in the file format of `transformers`."""

from transformers import PreTrainedTokenizerFast

from skyreels_jax.data.toy_film.captions import vocabulary

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5
# Words that people type and the captions do not use, so that ids stay when wordings are added.
SPARE_WORDS = """
    and are background big bright circle clip cube disc dots down fast film floats flying
    forward frame from going it its jumps large left light medium mountain mountains moving no
    object on one over right round scene shape slow small still sunny take then there this up
    video view while with world
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer.

    Text is lower-cased and split into words (hyphens kept inside) and punctuation marks; `</s>` is
    appended; an unknown word becomes `<unk>`. The `save_pretrained` folder loads through
    `transformers.AutoTokenizer` and diffusers (as ["transformers", "PreTrainedTokenizerFast"]).
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    words = list(dict.fromkeys([PAD, EOS, UNK, *vocabulary(), *sorted(SPARE_WORDS.split())]))
    ids = {word: i for i, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pattern = Regex(r"</?\w+>|\w+(?:-\w+)*|[^\w\s]")
    core.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, ids[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=512,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
