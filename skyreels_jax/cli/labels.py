"""The actions of `skyreels-jax data` on what people say of pairs."""

import argparse
import functools
import itertools
from typing import Any

from skyreels_jax.core.errors import UserError


def label_sheet(args: argparse.Namespace) -> int:
    """Writes OUTDIR/label_sheet.html."""
    from skyreels_jax.cli import pair_sets
    from skyreels_jax.core.files import check_writable, replacing
    from skyreels_jax.data.preferences.label_sheet import label_sheet as page_of

    splits = pair_sets.read(needed(args, "pairs"))
    if args.split not in splits:
        raise UserError(f"no split {args.split!r} of pairs; legal: {', '.join(splits)}")
    check_writable(args.outdir)
    shown = list(itertools.islice(splits[args.split](), args.num))
    page = page_of(shown, fps=args.fps, seed=args.seed)
    out = args.outdir / "label_sheet.html"
    with replacing(out) as path:
        path.write_text(page, encoding="utf-8")
    print(out)
    return 0


def import_labels(args: argparse.Namespace) -> int:
    """Prints what people say, and writes the pairs that are kept with their labels."""
    from skyreels_jax.cli import pair_sets
    from skyreels_jax.core.files import check_writable
    from skyreels_jax.data.preferences import labels

    rules = labels.LabelRules(min_annotators=args.min_annotators, discard_share=args.discard_share)
    said, source = labels.read_judgements(needed(args, "labels")), needed(args, "pairs")
    splits, ids = pair_sets.read(source), pair_sets.read_ids(source)
    check_writable(args.data_dir)
    found = labels.consensus(said, rules)
    labels.check_known([*found.labels, *found.dropped], set().union(*ids.values()))
    print(found.table())
    if not found.labels:
        raise UserError("no pair is left after the labels; legal: some that people agree on")

    def labelled(read):
        return labels.relabelled(read(), found.labels)

    made = {
        split: functools.partial(labelled, read)
        for split, read in splits.items()
        if not found.labels.keys().isdisjoint(ids[split])
    }
    name = f"{source.stem if source.is_file() else source.parent.name}-labelled"
    name = pair_sets.called(name, [pair_sets.identity(source), dict(found.labels)])
    pair_sets.write(args.data_dir, name, made, shape=pair_sets.shape(splits))
    return 0


def needed(args: argparse.Namespace, name: str) -> Any:
    """Returns the value of a flag that the action cannot do without."""
    value = getattr(args, name)
    if value is None:
        raise UserError(f"data {args.action} needs --{name} (see skyreels-jax data --help)")
    return value
