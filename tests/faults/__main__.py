"""python -m tests.faults: inject faults, and print a table of what was tried and what held."""

import argparse
import os
import sys
import time
from pathlib import Path

from tests.faults.campaign import FORMS, Campaign, FaultClass, Outcome, table, told, work_folder, written
from tests.faults.classes import CLASSES


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    epilog = "\n".join(f"  {name:<12} {cls.text}" for name, cls in CLASSES.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog=f"classes:\n{epilog}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--form", choices=FORMS, default="short", help="how much is tried (default: short, ten minutes)")
    add("--classes", nargs="+", choices=list(CLASSES), metavar="CLASS", help="of these classes alone")
    add("--seed", type=int, default=0, help="what is tried is drawn from it (default: 0)")
    add("--case", nargs="+", metavar="CLASS:NUMBER", help="these cases alone, NUMBER as 7 or 0-9")
    add("--jobs", type=int, default=2, help="cases at a time (default: 2)")
    add("--keep_going", action="store_true", help="do not end at the first case that did not hold")
    add("--out", type=Path, help="JSON file of all cases (default: log/faults/<time>.json)")
    return parser.parse_args(argv)


def chosen_cases(args: argparse.Namespace) -> list[tuple[FaultClass, int]]:
    """The cases that the user asked for."""
    if args.case:
        cases = []
        for text in args.case:
            name, _, numbers = text.partition(":")
            first, _, last = numbers.partition("-")
            cases += [(CLASSES[name], number) for number in range(int(first), int(last or first) + 1)]
        return cases
    names = args.classes or list(CLASSES)
    return [(CLASSES[name], number) for name in names for number in range(CLASSES[name].counts[args.form])]


def main(argv: list[str] | None = None) -> int:
    args, begin = parse(argv), time.monotonic()
    cases = chosen_cases(args)
    classes = list(dict.fromkeys(cls for cls, _ in cases))
    outcomes: list[Outcome] = []
    with work_folder() as work:
        campaign = Campaign(args.seed, work, args.jobs)
        for outcome in campaign.outcomes(cases):
            outcomes.append(outcome)
            if outcome.state == "failed":
                print(told(outcome, args.seed), flush=True)
                if not args.keep_going:
                    campaign.stop()
    for reason in dict.fromkeys(f"{o.cls}: {o.why}" for o in outcomes if o.state == "skipped"):
        print(f"skipped, {reason}")
    print(table(outcomes, classes, args.seed))
    path = written(outcomes, args.seed, args.form, args.out)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    print(f"{len(outcomes)} cases, {failed} did not hold, {time.monotonic() - begin:.0f} s, in {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what was imported to be forked takes seconds to be taken apart
