"""`evaluate --benchmark concepts`: single films of one or more settings, concept by concept."""

import argparse

from skyreels_jax.cli import side_by_side

BY = "shape"


def run(args: argparse.Namespace) -> int:
    """Checks everything, then makes and judges the same captions in every setting."""
    from skyreels_jax.evals.concepts import Concepts, check_attribute, table, verdict
    from skyreels_jax.evals.suite import load_scenes

    args.by = check_attribute(BY if args.by is None else args.by)
    scenes = load_scenes(args.prompts, args.num, seed=args.seed)
    asked = side_by_side.ask(args, scenes)
    for reports in side_by_side.judged(args, asked, scenes):
        found = [
            Concepts(name=one.name, attribute=args.by, report=report)
            for one, report in zip(asked, reports, strict=False)
        ]
        settings = {
            one.name: side_by_side.told(one, {"concepts": concepts.summary()})
            for one, concepts in zip(asked, found, strict=False)
        }
        against = {one.name: verdict(found[0], one) for one in found[1:]}
        said = {"by": args.by, "settings": settings, "against": against}
        said = side_by_side.head(args) | said
        paths = side_by_side.write(args, asked, reports, said)
    side_by_side.tell(args, said, table(found), paths)
    return 0
