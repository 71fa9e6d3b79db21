"""The tokenizer in a model folder, by the library `tokenizers` alone.

transformers would read the same file with that library, and takes more than a second to import.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer

from skyreels_jax.core.errors import UserError

PAD = "<pad>"


class FolderTokenizer:
    """Texts to token ids as transformers' `PreTrainedTokenizerFast` of the same folder makes them.

    Called as those are, with what `tokenize` needs of their options.
    Raises `UserError` for a folder without a tokenizer.json, or with a damaged one.
    """

    def __init__(self, folder: pathlib.Path):
        try:
            core = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises plain exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: not a tokenizer that can be read ({reason})") from None
        core.no_padding()
        for number, token in sorted(_added(config).items()):
            if core.token_to_id(token.content) is None:
                core.add_special_tokens([token])
            if core.token_to_id(token.content) != number:
                raise UserError(
                    f"{folder}: tokenizer_config.json has {token.content!r} as {number}, "
                    f"tokenizer.json as {core.token_to_id(token.content)}"
                )
        pad = _content(config.get("pad_token") or PAD)
        number = core.token_to_id(pad)
        if number is None:
            raise UserError(f"{folder}: the tokenizer does not know its pad token {pad!r}")
        self.pad_token_id = number
        self._core = core

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        max_length: int | None = None,
        truncation: bool = False,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """Returns {"input_ids": ids of a text, or of each of several}, cut at `max_length` tokens
        with `truncation`."""
        del verbose  # there is nothing to say
        if truncation and max_length is not None:
            self._core.enable_truncation(max_length)
        else:
            self._core.no_truncation()
        if isinstance(texts, str):
            return {"input_ids": self._core.encode(texts).ids}
        return {"input_ids": [self._core.encode(text).ids for text in texts]}

    def get_vocab(self) -> dict[str, int]:
        """Returns the number of each token."""
        return self._core.get_vocab(with_added_tokens=True)


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _added(config: dict[str, Any]) -> dict[int, AddedToken]:
    """Returns the tokens that the configuration adds, by number."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        int(number): AddedToken(token["content"], **{k: token[k] for k in flags if k in token})
        for number, token in config.get("added_tokens_decoder", {}).items()
    }
