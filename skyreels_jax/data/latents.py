"""The latents store: clips encoded once by the trained VAE, with their captions' tokens, on disk.

A folder of latents.npy (float16 [N, T, H, W, C], normalised), input_ids.npy (int32 [N, P, S]),
length.npy (int32 [N, P]), null_ids.npy, null_length.npy and manifest.json with the fingerprint of
everything the contents depend on.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from skyreels_jax.core.errors import UserError
from skyreels_jax.core.files import write_json
from skyreels_jax.core.tree import named_leaves
from skyreels_jax.core.types import Params
from skyreels_jax.data.loader import Source

MANIFEST = "manifest.json"
Encode = Callable[[UInt8[np.ndarray, "B F H W 3"]], Float[np.ndarray, "B T h w C"]]


def fingerprint(params: Params, settings: Mapping[str, Any]) -> str:
    """Returns a hash of the encoder's weights and of `settings` (json-ready): what latents depend
    on.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, leaf in sorted(named_leaves(params), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:32]


class LatentStore:
    """Random access to a finished store: {"latents" f16 [T, H, W, C], "input_ids" [P, S], "length"
    [P]}.

    Raises `UserError` when `folder` holds no finished store, or one whose fingerprint is not
    `expected`.
    """

    def __init__(self, folder: str | pathlib.Path, *, expected: str):
        folder = pathlib.Path(folder)
        manifest = read_manifest(folder)
        if manifest is None or manifest["done"] != manifest["clips"]:
            raise UserError(f"{folder} holds no finished latents store")
        check_fingerprint(folder, manifest, expected)
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.input_ids = np.load(folder / "input_ids.npy")
        self.length = np.load(folder / "length.npy")
        null = {name: np.load(folder / f"null_{name}.npy") for name in ("ids", "length")}
        self.null_cond = {"input_ids": null["ids"], "length": null["length"][()]}

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {
            "latents": np.asarray(self.latents[index]),
            "input_ids": self.input_ids[index],
            "length": self.length[index],
        }


def read_manifest(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the manifest of the store in `folder`, or None when there is none."""
    path = folder / MANIFEST
    return json.loads(path.read_text()) if path.exists() else None


def check_fingerprint(folder: pathlib.Path, manifest: Mapping[str, Any], expected: str) -> None:
    """Raises `UserError` for a stale store."""
    if manifest["fingerprint"] != expected:
        raise UserError(
            f"the latents in {folder} were made with another VAE, data set or tokenizer: "
            "delete the folder, or name another one (data.latents)"
        )


def build(
    folder: str | pathlib.Path,
    source: Source,
    encode: Encode,
    captions: Mapping[str, np.ndarray],
    null_caption: Mapping[str, np.ndarray],
    *,
    expected: str,
    batch: int,
    save_every: int = 50,
) -> None:
    """Encodes every clip of `source` into a store in `folder`; goes on where an interrupted build
    stopped.

    source: samples with "video" (uint8 [F, H, W, 3]).  encode: a batch of them -> normalised
    latents.
    captions: {"input_ids" [N, P, S], "length" [N, P]} in the order of `source`; null_caption:
    {"input_ids" [S], "length" []}.  expected: the fingerprint, see above.  Every `save_every`
    batches the progress is made safe.
    Raises `UserError` when `folder` holds a store with another fingerprint.
    """
    folder = pathlib.Path(folder)
    total = len(source)
    manifest = read_manifest(folder)
    if manifest is not None:
        check_fingerprint(folder, manifest, expected)
    else:
        manifest = {"fingerprint": expected, "clips": total, "done": 0}
    done = manifest["done"]
    if done == total:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("input_ids", "length"):
        np.save(folder / f"{name}.npy", np.asarray(captions[name], np.int32))
    np.save(folder / "null_ids.npy", np.asarray(null_caption["input_ids"], np.int32))
    np.save(folder / "null_length.npy", np.asarray(null_caption["length"], np.int32))
    latents = np.load(folder / "latents.npy", mmap_mode="r+") if done else None
    with tqdm(total=total, initial=done, unit="clip", desc="encode", mininterval=1.0) as bar:
        for count, start in enumerate(range(done, total, batch), start=1):
            clips = np.stack([source[i]["video"] for i in range(start, min(start + batch, total))])
            # The last batch is filled up so that every batch has the one compiled shape.
            made = encode(np.pad(clips, ((0, batch - len(clips)),) + ((0, 0),) * 4))[: len(clips)]
            if latents is None:
                latents = np.lib.format.open_memmap(
                    folder / "latents.npy", "w+", np.float16, (total, *made.shape[1:])
                )
            latents[start : start + len(clips)] = made
            bar.update(len(clips))
            manifest["done"] = start + len(clips)
            if count % save_every == 0 or manifest["done"] == total:
                latents.flush()
                write_json(folder / MANIFEST, manifest)
